# syntax=docker/dockerfile:1
# svfap-edge on a CPU, x86-64 or aarch64: the runtime with one engine. See docs/install.md.
#
#   docker build -f docker/cpu.Dockerfile -t svfap-edge .
#   docker run --rm -v "$PWD:/data" --user "$(id -u)" svfap-edge run talk.mp4 --jsonl talk.jsonl
#
# OpenVINO instead of ONNX Runtime, on x86-64: --build-arg ENGINE=openvino

FROM python:3.11-slim-bookworm AS build
ARG ENGINE=onnxruntime
WORKDIR /src
COPY constraints.txt ./
# The environment has no pip of its own. OpenCV is the headless one, of the release that
# constraints.txt names: it needs no libGL, which this image lacks.
RUN python -m venv --without-pip /opt/svfap-edge \
    && sed 's/^opencv-python==/opencv-python-headless==/' constraints.txt > pins.txt \
    && pip --python /opt/svfap-edge/bin/python install --no-cache-dir -c pins.txt \
        av msgspec numpy "${ENGINE}" "opencv-python-headless>=4.10,<5" rich typer
COPY pyproject.toml setup.py README.md LICENSE ./
COPY svfap_edge svfap_edge
COPY runtimes runtimes
COPY export export
COPY training training
RUN pip --python /opt/svfap-edge/bin/python install --no-cache-dir --no-deps .

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 svfap
COPY --from=build /opt/svfap-edge /opt/svfap-edge
# Any user may run it, also one without a home. Compiled models of OpenVINO are lost with the
# container, unless a volume is mounted there.
ENV PATH=/opt/svfap-edge/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SVFAP_EDGE_CACHE=/tmp/svfap-edge
USER 1000
WORKDIR /data
ENTRYPOINT ["svfap-edge"]
CMD ["run", "--help"]
