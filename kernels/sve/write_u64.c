// arch: aarch64
// flags: -march=armv8.2-a+sve
// write over large arrays; bytes and loop: ../memory_write.h

#include "vector.h"

#include "../memory_write.h"
