#!/bin/bash
# The start script of Apache Kafka's image, as its user: Kafka's own wrapper turns KAFKA_… variables
# into settings and formats the log folder once, then the broker starts.
set -euo pipefail
for folder in /opt/kafka/config /opt/kafka/logs; do
    [ -w "$folder" ] || { echo "$folder is not writable" >&2; exit 1; }
done
read -ra heap <<<"${KAFKA_HEAP_OPTS:-}"
java=(java "${heap[@]}" -XX:+UseG1GC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp '/opt/kafka/libs/*')
output=$("${java[@]}" kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka/docker \
    --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config 2>&1) ||
    grep -i "already formatted" <<<"$output" || { echo "$output" >&2; exit 1; }
exec "${java[@]}" '-Xlog:gc*:file=/opt/kafka/logs/gc.log' kafka.Kafka /opt/kafka/config/server.properties
