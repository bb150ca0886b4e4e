# Airflow with tidemill's bridge, without Dagster and tidemill. Context: the root of the repository.
FROM python:3.11.15-slim-bookworm AS builder
RUN pip install --no-cache-dir uv==0.13.9
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/tidemill/.venv
WORKDIR /src
COPY pyproject.toml uv.lock ./
COPY airflow_bridge/pyproject.toml airflow_bridge/
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --locked --no-dev --no-install-workspace --package tidemill-airflow --extra postgres
COPY airflow_bridge/README.md airflow_bridge/
COPY airflow_bridge/tidemill_airflow airflow_bridge/tidemill_airflow
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --locked --no-dev --no-editable --package tidemill-airflow --extra postgres

FROM python:3.11.15-slim-bookworm
LABEL org.opencontainers.image.title="tidemill Airflow" \
    org.opencontainers.image.description="Apache Airflow with tidemill's bridge to Dagster" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="0.1.0"
# A new volume gets the owner of the folder that it is mounted on.
RUN groupadd --gid 10001 tidemill \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin tidemill \
    && install --directory --owner=10001 --group=10001 /opt/airflow/dags /opt/airflow/logs
COPY --from=builder /opt/tidemill/.venv /opt/tidemill/.venv
COPY deploy/docker/entrypoint.sh platform/tidemill/services/health.py /opt/tidemill/
COPY deploy/docker/airflow.cfg /opt/airflow/
ENV PATH=/opt/tidemill/.venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 \
    AIRFLOW_HOME=/opt/airflow AIRFLOW_CONFIG=/opt/airflow/airflow.cfg
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["/opt/tidemill/entrypoint.sh"]
CMD ["airflow", "version"]
