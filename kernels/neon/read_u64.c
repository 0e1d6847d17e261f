// arch: aarch64
// read over large arrays; bytes and loop: ../memory_read.h

#include "vector.h"

#include "../memory_read.h"
