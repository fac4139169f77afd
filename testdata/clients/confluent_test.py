"""What confluent-kafka (librdkafka) must be able to do: confluent_test.py BOOTSTRAP CASE."""

import sys
import time
import uuid

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

BOOTSTRAP, CASE = sys.argv[1:3]
TIMEOUT = 60  # seconds, of any one step; long, for a machine that others use too
ADMIN = AdminClient({"bootstrap.servers": BOOTSTRAP})


def wait(futures):
    for future in futures.values():
        future.result(TIMEOUT)


def new_topic(partitions, **config):
    name = f"confluent-{CASE}-{uuid.uuid4().hex[:8]}"
    wait(ADMIN.create_topics([NewTopic(name, partitions, 1, config={k.replace("_", "."): v for k, v in config.items()})]))
    return name


def produce(topic, values, partition=0, **config):
    """Produces and returns the offsets that were acknowledged, in the order of the acknowledgements."""
    offsets = []

    def delivered(error, message):
        assert error is None, error
        offsets.append(message.offset())

    producer = Producer({"bootstrap.servers": BOOTSTRAP, **{k.replace("_", "."): v for k, v in config.items()}})
    for value in values:
        producer.produce(topic, value, partition=partition, on_delivery=delivered)
        producer.poll(0)
    assert producer.flush(TIMEOUT) == 0, "records were left unacknowledged"
    return offsets


def consumer(group=None, on_commit=None, **config):
    return Consumer({
        "bootstrap.servers": BOOTSTRAP,
        "group.id": group or f"group-{uuid.uuid4().hex[:8]}",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        **({"on_commit": on_commit} if on_commit else {}),
        **{k.replace("_", "."): v for k, v in config.items()},
    })


def read(c, count):
    """The next count records, or a failure at the deadline."""
    got, deadline = [], time.monotonic() + TIMEOUT
    while len(got) < count:
        assert time.monotonic() < deadline, f"read {len(got)} of {count} records in {TIMEOUT} s"
        message = c.poll(0.5)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        got.append(message)
    return got


def values(messages):
    return [message.value().decode() for message in messages]


def case_producer():
    """An idempotent producer with small batches and several in flight: every record once, in order."""
    topic = new_topic(1)
    sent = [f"v{i}" for i in range(5000)]
    offsets = produce(topic, sent, enable_idempotence=True, acks="all", batch_num_messages=50, linger_ms=1, compression_type="lz4")
    assert offsets == list(range(5000)), offsets[:20]
    c = consumer()
    c.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    assert values(read(c, 5000)) == sent
    c.close()


def case_commit():
    """Commits, synchronous and not, are where the next member of the group starts."""
    topic, group = new_topic(1), f"group-{uuid.uuid4().hex[:8]}"
    produce(topic, [f"v{i}" for i in range(30)])
    c = consumer(group)
    c.subscribe([topic])
    first = read(c, 10)
    committed = c.commit(message=first[-1], asynchronous=False)
    assert [p.offset for p in committed] == [10], committed
    c.close()

    told = []
    c = consumer(group, on_commit=lambda error, partitions: told.append((error, partitions[0].offset)))
    c.subscribe([topic])
    second = read(c, 10)
    assert values(second)[0] == "v10", values(second)
    c.commit(message=second[-1], asynchronous=True)
    deadline = time.monotonic() + TIMEOUT
    while not told:
        assert time.monotonic() < deadline, "the commit was never confirmed"
        c.poll(0.1)
    assert told == [(None, 20)], told
    assert c.committed([TopicPartition(topic, 0)], TIMEOUT)[0].offset == 20
    c.close()

    c = consumer(group)
    c.subscribe([topic])
    assert values(read(c, 1)) == ["v20"]
    c.close()


def case_seek():
    """seek, offsets_for_times and the watermarks."""
    topic = new_topic(1, retention_ms="-1")
    producer = Producer({"bootstrap.servers": BOOTSTRAP})
    for i in range(10):
        producer.produce(topic, f"v{i}", timestamp=1_700_000_000_000 + i * 1000)
    assert producer.flush(TIMEOUT) == 0
    c = consumer()
    c.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    read(c, 10)
    c.seek(TopicPartition(topic, 0, 7))
    assert values(read(c, 3)) == ["v7", "v8", "v9"]
    found = c.offsets_for_times([TopicPartition(topic, 0, 1_700_000_003_500)], TIMEOUT)
    assert found[0].offset == 4, found
    c.seek(found[0])
    assert values(read(c, 1)) == ["v4"]
    assert c.get_watermark_offsets(TopicPartition(topic, 0), TIMEOUT) == (0, 10)
    c.close()


def case_admin():
    """Topics are created, described, grown, configured and deleted; errors are the protocol's."""
    topic = new_topic(2, retention_ms="3600000")
    described = ADMIN.list_topics(topic, TIMEOUT).topics[topic]
    assert len(described.partitions) == 2, described.partitions
    try:
        wait(ADMIN.create_topics([NewTopic(topic, 1, 1)]))
        raise AssertionError("a topic was created twice")
    except KafkaException as e:
        assert e.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS, e
    wait(ADMIN.create_partitions([NewPartitions(topic, 4)]))
    deadline = time.monotonic() + TIMEOUT
    while len(ADMIN.list_topics(topic, TIMEOUT).topics[topic].partitions) != 4:
        assert time.monotonic() < deadline, "four partitions were never listed"
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    configs = ADMIN.describe_configs([resource])[resource].result(TIMEOUT)
    assert configs["retention.ms"].value == "3600000", configs["retention.ms"]
    wait(ADMIN.delete_topics([topic]))
    deadline = time.monotonic() + TIMEOUT
    while topic in ADMIN.list_topics(timeout=TIMEOUT).topics:
        assert time.monotonic() < deadline, "the topic was never gone"


def case_groups():
    """Two members share four partitions; one leaves and the other takes over, by each assignor."""
    for strategy in ("range", "roundrobin", "cooperative-sticky"):
        topic, group = new_topic(4), f"group-{uuid.uuid4().hex[:8]}"
        members = [consumer(group, partition_assignment_strategy=strategy, session_timeout_ms=45000, heartbeat_interval_ms=200) for _ in range(2)]
        for member in members:
            member.subscribe([topic])

        def settle(sizes):
            deadline = time.monotonic() + TIMEOUT
            while [len(member.assignment()) for member in members] != sizes:
                assert time.monotonic() < deadline, f"{strategy}: {[m.assignment() for m in members]}"
                for member in members:
                    member.poll(0.05)

        settle([2, 2])
        assert ADMIN.describe_consumer_groups([group])[group].result(TIMEOUT).state.name == "STABLE"
        members.pop().close()
        settle([4])
        members.pop().close()


globals()[f"case_{CASE}"]()
