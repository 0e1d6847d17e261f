// arch: x86_64
// flags: -mavx2 -mfma
// write over large arrays; bytes and loop: ../memory_write.h

#include "vector.h"

#include "../memory_write.h"
