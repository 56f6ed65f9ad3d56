// Spends its CPU time in a known way and says how.
//
//   spin shares SECONDS   three functions at about 60, 30 and 10 of a hundred
//   spin kernel SECONDS   the kernel fills a buffer
//   spin deep SECONDS     a recursion of 40 frames
//   spin depths SECONDS   recursions of 1 to 40 frames, in turn

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define APART __attribute__((noinline, noclone))

static volatile unsigned long sink;

static double cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

// The same loop three times, so that no function calls another to do its work. Something on the
// stack makes compilers give a function a frame.
#define SPIN(rounds)                              \
    volatile long kept = (rounds);                \
    unsigned long mixed = sink + kept;            \
    for (long at = 0; at < (rounds); at++)        \
        mixed = mixed * 6364136223846793005 + at; \
    sink = mixed;

APART void spin_sixty(long unit) { SPIN(6 * unit) }
APART void spin_thirty(long unit) { SPIN(3 * unit) }
APART void spin_ten(long unit) { SPIN(unit) }

APART void work(double seconds) {
    // About a millisecond for ten of a hundred.
    const long unit = 700000;
    double sixty = 0, thirty = 0, ten = 0;
    double at = cpu_seconds(), end = at + seconds;
    while (at < end) {
        spin_sixty(unit);
        double second = cpu_seconds();
        spin_thirty(unit);
        double third = cpu_seconds();
        spin_ten(unit);
        double last = cpu_seconds();
        sixty += second - at;
        thirty += third - second;
        ten += last - third;
        at = last;
    }
    double all = sixty + thirty + ten;
    printf("%.5f %.5f %.5f %.3f\n", sixty / all, thirty / all, ten / all, all);
}

APART void ask_kernel(double seconds) {
    static char buffer[1 << 20];
    int zero = open("/dev/zero", O_RDONLY);
    double end = cpu_seconds() + seconds;
    while (cpu_seconds() < end)
        for (int at = 0; at < 16; at++)
            sink += read(zero, buffer, sizeof buffer);
    close(zero);
    puts("done");
}

APART long descend(int left, double seconds) {
    // What lies between frames makes a stack of several pages.
    volatile char room[256];
    room[0] = left;
    if (left == 0) {
        double end = cpu_seconds() + seconds;
        while (cpu_seconds() < end)
            spin_ten(700000);
        return room[0];
    }
    return descend(left - 1, seconds) + room[0];
}

APART void descend_to_all(double seconds) {
    double end = cpu_seconds() + seconds;
    for (int left = 0; cpu_seconds() < end; left = (left + 1) % 40)
        sink += descend(left, 0.001);
    puts("done");
}

int main(int count, char **arguments) {
    if (count != 3)
        return 2;
    double seconds = atof(arguments[2]);
    if (!strcmp(arguments[1], "shares"))
        work(seconds);
    else if (!strcmp(arguments[1], "kernel"))
        ask_kernel(seconds);
    else if (!strcmp(arguments[1], "deep"))
        printf("%ld\n", descend(40, seconds));
    else if (!strcmp(arguments[1], "depths"))
        descend_to_all(seconds);
    return 0;
}
