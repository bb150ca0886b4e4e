# Stands in for apache/kafka: the jars and the Java runtime that tidemill pins, with the same user and folders.
FROM debian-bookworm
RUN useradd --uid 1000 --create-home appuser \
    && install --directory --owner=appuser /opt/kafka/config /mnt/shared/config /var/lib/kafka/data /etc/kafka/docker
COPY java /opt/java/openjdk
COPY libs /opt/kafka/libs
COPY kafka.sh /etc/kafka/docker/run
ENV PATH=/opt/java/openjdk/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
USER 1000:1000
CMD ["/etc/kafka/docker/run"]
