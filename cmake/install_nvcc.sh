#!/usr/bin/env bash
# In a manylinux_2_28 container (AlmaLinux 8), before cibuildwheel builds: CUDA 12.8's compiler, where TFCOMPRESS_CUDA=ON asks for it.
# 12.8 is the first that knows compute capabilities 10.0 and 12.0, and its kernels run from driver 525 on.
set -euo pipefail
[ "${TFCOMPRESS_CUDA:-OFF}" = ON ] || exit 0
dnf config-manager --add-repo https://developer.download.nvidia.com/compute/cuda/repos/rhel8/x86_64/cuda-rhel8.repo
dnf install -y cuda-nvcc-12-8 cuda-cudart-devel-12-8
/usr/local/cuda-12.8/bin/nvcc --version
