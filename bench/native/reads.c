// Reads of a disk past the page cache: reads DEVICE BYTES COUNT, at random places of up to 64 KiB, else one after
// the other.  Prints reads a second and MB (of 1,000,000 bytes) a second.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int count, char **words) {
    if (count != 4)
        return 2;
    int disk = open(words[1], O_RDONLY | O_DIRECT);
    long bytes = atol(words[2]), reads = atol(words[3]);
    off_t blocks = lseek(disk, 0, SEEK_END) / bytes;
    void *buffer;
    if (disk < 0 || blocks <= 0 || posix_memalign(&buffer, 4096, bytes))
        return 1;
    uint64_t random = 88172645463325252u;
    double start_s = now_s();
    for (long n = 0; n < reads; n++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        uint64_t block = bytes <= 65536 ? random : (uint64_t)n;
        if (pread(disk, buffer, bytes, (off_t)(block % blocks) * bytes) != bytes)
            return 1;
    }
    double s = now_s() - start_s;
    printf("%ld reads of %ld bytes in %.3f s: %.0f/s, %.0f MB/s\n", reads, bytes, s, reads / s, reads / s * bytes / 1e6);
    return 0;
}
