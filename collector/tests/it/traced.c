// A program whose calls are traced: it says what it will do, and does it when it is told to.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALLED __attribute__((noinline, noclone, used))

enum colour { RED, GREEN };

struct body {
    long size;
    char kind[8];
};

struct request {
    int id;
    const char *path;
    struct body body;
    struct request *next;
    double weight;
};

volatile long sink;

CALLED long handle(int number, const char *name, unsigned char small, struct request *request,
                   enum colour colour, long sixth, short seventh) {
    sink += number + name[0] + small + request->id + colour + sixth + seventh;
    return -2L * number;
}

CALLED unsigned climb(unsigned height) {
    unsigned above = height ? climb(height - 1) + 1 : 0;
    sink += above;
    return above;
}

CALLED double weigh(double weight, int count) {
    sink += count;
    return weight * count;
}

CALLED void nothing(const char *wrong) { sink += wrong != 0; }

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    char what[32];
    int count;
    while (scanf("%31s %d", what, &count) == 2) {
        for (int i = 0; i < count; i++) {
            char name[32], path[400];
            snprintf(name, sizeof name, "name-%d", i);
            snprintf(path, sizeof path, "/path/%d", i);
            if (!strcmp(what, "long"))
                memset(path, 'x', sizeof path - 1), path[sizeof path - 1] = 0;
            struct request last = {-7, "/last", {0, "none"}, NULL, 0.5};
            struct request request = {100 + i, path, {1L << 40 | i, "json"}, &last, i + 0.25};
            if (!strcmp(what, "climb"))
                climb(3);
            else if (!strcmp(what, "weigh"))
                weigh(i, i);
            else if (!strcmp(what, "nothing"))
                nothing((const char *)8);
            else
                handle(i, name, (unsigned char)(255 - i), &request, GREEN, i * 6L, (short)-i);
        }
        puts("done");
    }
    return 0;
}
