import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Shows the inside of the Java producer, as key=value lines: ProducerInside CASE BOOTSTRAP TOPIC [config=value]...
 * Run it with Kafka's jars: java -cp 'libs/*' ProducerInside.java batches localhost:9092 my-topic
 */
public class ProducerInside {
    private static final Properties config = new Properties();
    private static String topic;

    public static void main(String[] args) throws Exception {
        config.put("bootstrap.servers", args[1]);
        config.put("key.serializer", StringSerializer.class);
        config.put("value.serializer", StringSerializer.class);
        topic = args[2];
        for (int i = 3; i < args.length; i++) {
            String[] keyValue = args[i].split("=", 2);
            config.put(keyValue[0], keyValue[1]);
        }
        switch (args[0]) {
            case "defaults" -> defaults();
            case "metadata" -> metadata();
            case "batches" -> batches();
            case "buffer" -> buffer();
            case "order" -> order();
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    /** What the producer does unless told otherwise. */
    private static void defaults() {
        for (String key : new String[] {"batch.size", "buffer.memory", "max.block.ms", "linger.ms", "max.in.flight.requests.per.connection", "enable.idempotence", "acks"}) {
            Object value = ProducerConfig.configDef().defaultValues().get(key);
            say(key, value);
        }
    }

    /** The first send waits for metadata; without a broker it gives up after max.block.ms. */
    private static void metadata() throws Exception {
        try (var producer = producer()) {
            send(producer, "first").get();
            say("wait.first.ns", metric(producer, "metadata-wait-time-ns-total"));
            send(producer, "second").get();
            say("wait.second.ns", metric(producer, "metadata-wait-time-ns-total"));
        }
        config.put("bootstrap.servers", "127.0.0.1:1");
        config.put("max.block.ms", "500");
        try (var producer = producer()) {
            long start = System.nanoTime();
            String error = error(send(producer, "never"));
            say("unreachable.error", error);
            say("unreachable.ms", (System.nanoTime() - start) / 1_000_000);
        }
    }

    /** Full batches leave at once though linger.ms is a minute; the last one waits for the flush. */
    private static void batches() throws Exception {
        config.put("linger.ms", "60000");
        try (var producer = producer()) {
            var sent = new AtomicInteger();
            for (int i = 0; i < 100; i++) {
                producer.send(new ProducerRecord<>(topic, "x".repeat(1000)), (done, error) -> sent.incrementAndGet());
            }
            int before;
            do { // until what is on its way has arrived
                before = sent.get();
                Thread.sleep(1000);
            } while (before == 0 || before != sent.get());
            say("sent.before.flush", before);
            producer.flush();
            say("batch-size-max", metric(producer, "batch-size-max"));
        }
    }

    /** A broker that does not answer fills the buffer; then send blocks for max.block.ms. */
    private static void buffer() throws Exception {
        config.put("max.block.ms", "2000");
        config.put("compression.type", "none");
        try (var producer = producer()) {
            producer.partitionsFor(topic);
            say("total", metric(producer, "buffer-total-bytes"));
            System.err.println("Now stop the broker (kill -STOP) and press Enter.");
            System.in.read();
            String value = "x".repeat(4000), error; // four to a batch
            long start, accepted = 0;
            while (true) {
                start = System.nanoTime();
                Future<RecordMetadata> sent = send(producer, value);
                if (sent.isDone() && (error = error(sent)) != null) {
                    break;
                }
                accepted++;
            }
            say("error", error);
            say("blocked.ms", (System.nanoTime() - start) / 1_000_000);
            say("accepted", accepted);
            say("buffered.bytes", accepted * value.length());
            producer.flush();
        }
    }

    /** One record by itself, then five in several requests. */
    private static void order() throws Exception {
        config.put("batch.size", "0");
        config.put("linger.ms", "0");
        config.put("retry.backoff.ms", "1000"); // so that what is refused comes back late
        try (var producer = producer()) {
            send(producer, "first").get();
            for (int i = 0; i < 5; i++) {
                send(producer, "v" + i);
            }
            producer.flush();
        }
    }

    private static KafkaProducer<String, String> producer() {
        return new KafkaProducer<>(config);
    }

    private static Future<RecordMetadata> send(KafkaProducer<String, String> producer, String value) {
        return producer.send(new ProducerRecord<>(topic, value));
    }

    /** The name of what went wrong, or null. */
    private static String error(Future<RecordMetadata> sent) throws InterruptedException {
        try {
            sent.get();
            return null;
        } catch (ExecutionException e) {
            return e.getCause().getClass().getSimpleName();
        }
    }

    private static long metric(KafkaProducer<String, String> producer, String name) {
        return producer.metrics().entrySet().stream().filter(m -> m.getKey().name().equals(name) && m.getKey().group().equals("producer-metrics"))
            .map(Map.Entry::getValue).mapToLong(m -> ((Number) m.metricValue()).longValue()).findFirst().orElseThrow();
    }

    private static void say(String key, Object value) {
        System.out.println(key + "=" + value);
    }
}
