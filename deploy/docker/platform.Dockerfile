# Dagster, MLflow and tidemill's commands. Context: the root of the repository.
FROM python:3.11.15-slim-bookworm AS builder
RUN pip install --no-cache-dir uv==0.13.9
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/tidemill/.venv
WORKDIR /src
COPY pyproject.toml uv.lock ./
COPY airflow_bridge/pyproject.toml airflow_bridge/
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --locked --no-dev --no-install-workspace --extra dagster
COPY LICENSE README.md ./
COPY deploy/dagster.yaml deploy/dagster-postgres.yaml deploy/
COPY deploy/kafka deploy/kafka
COPY deploy/postgres deploy/postgres
COPY platform/tidemill platform/tidemill
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --locked --no-dev --no-editable --extra dagster

FROM python:3.11.15-slim-bookworm
LABEL org.opencontainers.image.title="tidemill platform" \
    org.opencontainers.image.description="Dagster, MLflow and tidemill's commands" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="0.1.0"
# Debian removes older versions, so a pinned version would break the build eventually.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
# A new volume gets the owner of the folder that it is mounted on.
RUN groupadd --gid 10001 tidemill \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin tidemill \
    && install --directory --owner=10001 --group=10001 /opt/airflow/dags \
    /var/lib/mlflow /var/lib/models /var/lib/store /var/lib/tidemill
COPY --from=builder /opt/tidemill/.venv /opt/tidemill/.venv
COPY deploy/docker/entrypoint.sh platform/tidemill/services/health.py /opt/tidemill/
ENV PATH=/opt/tidemill/.venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 \
    MLFLOW_DISABLE_TELEMETRY=true GIT_PYTHON_REFRESH=quiet
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["/opt/tidemill/entrypoint.sh"]
CMD ["tidemill", "--help"]
