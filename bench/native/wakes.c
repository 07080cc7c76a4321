/* What it costs the host to wake a program so many times a second that then does nothing: the least that an idle
 * guest with such a tick can cost.  Arguments: wake-ups a second, seconds.  Prints CPU time in % of a core. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { NS_PER_S = 1000000000 };

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    long rate = atol(argv[1]), count = rate * atol(argv[2]);
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    double start = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (long n = 0; n < count; n++) {
        next.tv_nsec += NS_PER_S / rate;
        if (next.tv_nsec >= NS_PER_S) {
            next.tv_nsec -= NS_PER_S;
            next.tv_sec++;
        }
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
    }
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("%.2f\n", 100 * cpu / (seconds(CLOCK_MONOTONIC) - start));
    return 0;
}
