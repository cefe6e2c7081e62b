#define UPMOE_LANES 4
#define UPMOE_KERNELS kKernelsPlain
#include "upmoe/ops/kernels_body.h"
