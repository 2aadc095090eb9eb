"""The log on Apache Kafka; `penstock.log.kafka.log` is where to begin reading."""
