// bf16 matrices in plain C: 4 rows by 8 columns.
#include "lanes.h"

#define TYPE "bf16"
#define LOOP ""
#define IN AB_BF16
#define WHOLE 0
#define LOW 0
#define OPS 16
#define MR 4
#define ROWS ROWS_4
#define LOAD(p) load_words(p)
#define BROADCAST(p) broadcast_word(p)
#define STORE(p, v) store_reals(p, v)
#define ZERO() (acc_t){0}
#define ACC dot_bf16

typedef words vec;
typedef reals acc_t;

#include "../gemm_rows.h"
