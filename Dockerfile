# Two images out of one tree, written without BuildKit's own syntax so that any engine builds them:
#   docker build --target serving -t keras-rehearsal-serving .   the embedded server, where tensorflow/serving stands
#   docker build --target flows -t keras-rehearsal .             the pipeline
# BASE_IMAGE is any Debian or Ubuntu with Python 3.11 to 3.13; PIP_INDEX_URL, where given, is where wheels come from.
ARG BASE_IMAGE=python:3.11-slim-bookworm


FROM ${BASE_IMAGE} AS runtime
ARG PIP_INDEX_URL
# Of the tensorflow package the server needs two libraries, without their symbol tables, and the protos.
# Everything comes from the lock, so that the served numbers are those of the training environment.
ARG PACKAGES="tensorflow tensorflow-serving-api numpy orjson grpcio protobuf uvicorn httptools click typing-extensions"
RUN command -v strip >/dev/null \
    || (apt-get update && apt-get install --yes --no-install-recommends binutils)
COPY requirements.lock /tmp/
RUN awk -v packages="$PACKAGES" \
        'BEGIN { n = split(packages, names, " "); for (i = 1; i <= n; i++) wanted[names[i]] = 1 } \
         /^[a-z0-9]/ { split($1, part, "=="); keep = part[1] in wanted } keep' \
        /tmp/requirements.lock > /tmp/serving.lock \
    && python3 -m venv /opt/serving \
    && /opt/serving/bin/pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes \
        -r /tmp/serving.lock \
    && /opt/serving/bin/pip uninstall --yes pip setuptools \
    && cd /opt/serving/lib/python3.*/site-packages/tensorflow \
    && find . -type f ! -name '*_pb2*.py*' ! -path ./__init__.py ! -path './core/*/__init__.py' \
        ! -name libtensorflow_cc.so.2 ! -name libtensorflow_framework.so.2 -delete \
    && find . -type d -empty -delete \
    && chmod u+w libtensorflow_* && strip libtensorflow_cc.so.2 libtensorflow_framework.so.2


FROM ${BASE_IMAGE} AS serving
COPY --from=runtime /opt/serving /opt/serving
WORKDIR /app
COPY tasks/__init__.py tasks/
COPY tasks/model_server tasks/model_server
RUN /opt/serving/bin/python -m compileall -q tasks \
    && /opt/serving/bin/python -c "import tasks.model_server.__main__, tasks.model_server.ports, tasks.model_server.grpc_service"
# The contract of tensorflow/serving's image; arguments of `docker run` become further flags of the server.
ENV MODEL_NAME=model MODEL_BASE_PATH=/models PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8500 8501
USER 65534:65534
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["/opt/serving/bin/python", "-c", \
    "import os, sys, urllib.request as r; \
url = 'http://127.0.0.1:8501/v1/models/' + os.environ['MODEL_NAME']; \
sys.exit(b'AVAILABLE' not in r.urlopen(url, timeout=4).read())"]
ENTRYPOINT ["/bin/sh", "-c", "exec /opt/serving/bin/python -m tasks.model_server \
--port=8500 --rest_api_port=8501 --model_name=\"$MODEL_NAME\" --model_base_path=\"$MODEL_BASE_PATH/$MODEL_NAME\" \"$@\"", "serving"]


FROM ${BASE_IMAGE} AS flows
ARG PIP_INDEX_URL
COPY requirements.lock /tmp/
RUN python3 -m venv /opt/flows \
    && /opt/flows/bin/pip install --no-cache-dir --require-hashes -r /tmp/requirements.lock
WORKDIR /app
COPY flows flows
COPY tasks tasks
COPY configs configs
# What a run writes (candidates, models, mlflow.db) and your own configuration and code live in a volume at /rehearsal.
RUN useradd --create-home --uid 1000 rehearsal && mkdir /rehearsal
COPY configs/*.yaml /rehearsal/configs/
RUN chown --recursive rehearsal /rehearsal
ENV PATH=/opt/flows/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1
USER rehearsal
WORKDIR /rehearsal
VOLUME /rehearsal
ENTRYPOINT ["python", "-m"]
CMD ["flows.train_and_serve", "--help"]
