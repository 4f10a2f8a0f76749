// Not CUDA's numbers of 16 bits: nccl.h includes it and uses none, see ../nccl.cpp.
#pragma once
