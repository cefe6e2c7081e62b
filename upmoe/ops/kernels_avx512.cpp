#define UPMOE_LANES 16
#define UPMOE_KERNELS kKernelsAvx512
#include "upmoe/ops/kernels_body.h"
