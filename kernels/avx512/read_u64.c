// arch: x86_64
// flags: -mavx512f
// read over large arrays; bytes and loop: ../memory_read.h

#include "vector.h"

#include "../memory_read.h"
