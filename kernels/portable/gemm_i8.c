// i8 matrices in plain C: 4 rows by 8 columns.
#include "lanes.h"

#define TYPE "i8"
#define LOOP ""
#define IN AB_I8
#define WHOLE 1
#define LOW -127
#define OPS 32
#define MR 4
#define ROWS ROWS_4
#define LOAD(p) load_words(p)
#define BROADCAST(p) broadcast_word(p)
#define STORE(p, v) store_words(p, v)
#define ZERO() (acc_t){0}
#define ACC dot_i8

typedef words vec;
typedef words acc_t;

#include "../gemm_rows.h"
