#define UPMOE_LANES 8
#define UPMOE_KERNELS kKernelsAvx2
#include "upmoe/ops/kernels_body.h"
