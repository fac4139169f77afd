import com.sun.net.httpserver.HttpServer;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.CreateTopicsOptions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.Uuid;

/**
 * Apache Kafka's broker behind millrace's command line: serve [--config FILE] [--override key=value]...
 * A test that passes on it is a right test; ../apache-kafka.sh starts it. Keys that only millrace knows are ignored.
 */
public class StandIn {
    public static void main(String[] args) throws Exception {
        Properties config = new Properties();
        for (int i = 1; i < args.length; i += 2) {
            if (args[i].equals("--config")) {
                try (var in = Files.newInputStream(Path.of(args[i + 1]))) {
                    config.load(in);
                }
            } else {
                String[] keyValue = args[i + 1].split("=", 2);
                config.setProperty(keyValue[0], keyValue[1]);
            }
        }
        String listener = config.getProperty("listeners");
        String bootstrap = listener.substring(listener.indexOf("://") + 3);
        int controllerPort;
        try (ServerSocket free = new ServerSocket(0)) {
            controllerPort = free.getLocalPort();
        }
        config.putAll(Map.of(
            "process.roles", "broker,controller",
            "node.id", "1",
            "controller.quorum.voters", "1@127.0.0.1:" + controllerPort,
            "listeners", listener + ",CONTROLLER://127.0.0.1:" + controllerPort,
            "controller.listener.names", "CONTROLLER",
            "listener.security.protocol.map", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "offsets.topic.num.partitions", "5",
            "offsets.topic.replication.factor", "1"));
        if (config.getProperty("advertised.listeners") == null) {
            config.setProperty("advertised.listeners", listener);
        }
        String admin = (String) config.remove("admin.listener");

        Path file = Files.createTempFile("stand-in", ".properties");
        file.toFile().deleteOnExit();
        try (var out = Files.newOutputStream(file)) {
            config.store(out, null);
        }
        if (!Files.exists(Path.of(config.getProperty("log.dirs"), "meta.properties"))) {
            var said = new ByteArrayOutputStream();
            String[] format = {"format", "-t", Uuid.randomUuid().toString(), "-c", file.toString()};
            if (kafka.tools.StorageTool.execute(format, new PrintStream(said)) != 0) {
                System.err.print(said);
                System.exit(1);
            }
        }

        String[] hostPort = admin.split(":");
        HttpServer http = HttpServer.create(new InetSocketAddress(hostPort[0], Integer.parseInt(hostPort[1])), 0);
        http.createContext("/ready", exchange -> {
            exchange.sendResponseHeaders(answers(bootstrap) ? 200 : 503, -1);
            exchange.close();
        });
        http.start();
        kafka.Kafka.main(new String[] {file.toString()});
    }

    // A topic could be made now: the broker answers before it has found its controller, and then drops who asks for one.
    private static boolean answers(String bootstrap) {
        try (Admin client = Admin.create(Map.<String, Object>of("bootstrap.servers", bootstrap, "default.api.timeout.ms", 3000, "request.timeout.ms", 1500))) {
            client.createTopics(List.of(new NewTopic("ready", 1, (short) 1)), new CreateTopicsOptions().validateOnly(true)).all().get(3, TimeUnit.SECONDS);
            return true;
        } catch (Exception e) {
            return false;
        }
    }
}
