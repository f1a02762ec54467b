# syntax=docker/dockerfile:1
# svfap-edge on a Jetson with JetPack 6: plans on TensorRT 10.3, ONNX Runtime on the CPU.
# Not built and not run so far: docs/install.md says what was checked.
#
#   docker build -f docker/jetson.Dockerfile -t svfap-edge-jetson .
#   docker run --rm --runtime nvidia -v "$PWD:/data" svfap-edge-jetson \
#       build dfew --artifacts fp16.tensorrt,int8.tensorrt
#   docker run --rm --runtime nvidia -v "$PWD:/data" svfap-edge-jetson \
#       run talk.mp4 --bundle dfew --jsonl talk.jsonl
#
# CUDA 12.6, TensorRT 10.3 and its Python bindings come from the base image, the GPU's driver from
# the Jetson, through the NVIDIA runtime. Plans are built there, not in this file: while an image is
# built, TensorRT cannot even be imported, for the driver's libraries are missing.

ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ${BASE}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --groups video svfap

# The environment sees the system's packages, and among them JetPack's TensorRT. What pip must not
# bring is another one: the packages are named one by one, none of them needs TensorRT, and the last
# line fails if one came all the same. cuda-python 12 fits CUDA 12 and needs no compiler.
# constraints.txt is for Python 3.11 and newer, JetPack 6 has 3.10: the releases here are those that
# resolved for it on 2026-11-27.
WORKDIR /src
RUN python3 -m venv --system-site-packages /opt/svfap-edge \
    && /opt/svfap-edge/bin/pip install --no-cache-dir "pip>=24" "setuptools>=77" \
    && /opt/svfap-edge/bin/pip install --no-cache-dir \
        av==17.1.0 "cuda-python==12.9.*" msgspec==0.22.0 numpy==2.2.6 onnx==1.23.2 \
        onnxruntime==1.23.2 opencv-python-headless==4.14.0.94 rich==15.0.0 typer==0.29.1 \
    && ! /opt/svfap-edge/bin/pip list --local | grep -i '^tensorrt'
COPY pyproject.toml setup.py README.md LICENSE ./
COPY svfap_edge svfap_edge
COPY runtimes runtimes
COPY export export
COPY training training
RUN /opt/svfap-edge/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

# Where /data is not open to user 1000: --user "$(id -u)", with --group-add video for the devices.
ENV PATH=/opt/svfap-edge/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SVFAP_EDGE_CACHE=/tmp/svfap-edge
USER 1000
WORKDIR /data
ENTRYPOINT ["svfap-edge"]
CMD ["run", "--help"]
