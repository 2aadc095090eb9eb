"""Changes from message topics: Kafka, Redis Streams, NATS JetStream; Debezium and other formats."""
