// arch: aarch64
// flags: -march=armv8.2-a+sve
// read over large arrays; bytes and loop: ../memory_read.h

#include "vector.h"

#include "../memory_read.h"
