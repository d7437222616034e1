# Only the environment; the checkout is mounted, so that edits need no new image. Not tested: written without a container engine.
#
#   docker build -t diffusion-memorization .                      (CUDA 13.0; --build-arg TORCH_INDEX=… for another build)
#   docker run --rm -it --gpus=all --ipc=host --user "$(id -u):$(id -g)" -e HOME=/tmp -v "$PWD:/work" \
#       diffusion-memorization python train.py --help
FROM python:3.12-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130
COPY requirements.txt requirements-slurm.txt /tmp/
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(grep '^torch==' /tmp/requirements.txt)" \
    && pip install --no-cache-dir -r /tmp/requirements.txt -r /tmp/requirements-slurm.txt
WORKDIR /work
