/* Moves known numbers of bytes over TCP connections with itself, by every flavour of call that Linux
 * has for it. For each it says on its standard output: name, port, bytes sent, bytes received, both of
 * the end that connected. That end uses the flavour, the other one only `send` and `recv`.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NODELAY = 1, PAGE = 4096 };
enum { URING_READ = 22, URING_WRITE = 23, URING_SEND = 26, URING_RECV = 27 };

static char bytes[1 << 20];
static int uring = 1;

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, strerror(errno)); \
            exit(1); \
        } \
    } while (0)

/* Both move exactly `size` bytes and give how many they moved. */
typedef size_t (*flavour)(int fd, size_t size);

static size_t send_all(int fd, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t moved = send(fd, bytes + done, size - done, 0);
        CHECK(moved > 0);
        done += moved;
    }
    return size;
}

static size_t recv_all(int fd, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t moved = recv(fd, bytes + done, size - done, 0);
        CHECK(moved > 0);
        done += moved;
    }
    return size;
}

/* What is left of `size` after a call that moved `moved`. */
static size_t sent(int fd, size_t size, ssize_t moved) {
    CHECK(moved > 0 && (size_t)moved <= size);
    return moved + send_all(fd, size - moved);
}

static size_t received(int fd, size_t size, ssize_t moved) {
    CHECK(moved > 0 && (size_t)moved <= size);
    return moved + recv_all(fd, size - moved);
}

static size_t by_write(int fd, size_t size) { return sent(fd, size, write(fd, bytes, size)); }
static size_t by_send(int fd, size_t size) { return sent(fd, size, send(fd, bytes, size, MSG_NOSIGNAL)); }
static size_t by_send_more(int fd, size_t size) {
    ssize_t moved = send(fd, bytes, size / 2, MSG_MORE);
    return sent(fd, size, moved);
}
static size_t by_sendto(int fd, size_t size) { return sent(fd, size, sendto(fd, bytes, size, 0, NULL, 0)); }

/* `size` bytes in four parts, the second of which is empty. */
static void parts(struct iovec *four, size_t size) {
    size_t first = size / 5;
    four[0] = (struct iovec){bytes, first};
    four[1] = (struct iovec){bytes, 0};
    four[2] = (struct iovec){bytes + first, 1};
    four[3] = (struct iovec){bytes + first + 1, size - first - 1};
}

static size_t by_writev(int fd, size_t size) {
    struct iovec four[4];
    parts(four, size);
    return sent(fd, size, writev(fd, four, 4));
}

static size_t by_pwritev2(int fd, size_t size) {
    struct iovec four[4];
    parts(four, size);
    return sent(fd, size, pwritev2(fd, four, 4, -1, 0));
}

static size_t by_sendmsg(int fd, size_t size) {
    struct iovec four[4];
    parts(four, size);
    struct msghdr message = {.msg_iov = four, .msg_iovlen = 4};
    return sent(fd, size, sendmsg(fd, &message, 0));
}

/* `size` bytes in three messages, one of which has several parts. */
static void three(struct mmsghdr *messages, struct iovec *vectors, size_t size) {
    size_t each = size / 3;
    memset(messages, 0, 3 * sizeof *messages);
    parts(vectors, each);
    vectors[4] = (struct iovec){bytes, each};
    vectors[5] = (struct iovec){bytes, size - 2 * each};
    messages[0].msg_hdr = (struct msghdr){.msg_iov = vectors, .msg_iovlen = 4};
    messages[1].msg_hdr = (struct msghdr){.msg_iov = vectors + 4, .msg_iovlen = 1};
    messages[2].msg_hdr = (struct msghdr){.msg_iov = vectors + 5, .msg_iovlen = 1};
}

static size_t by_sendmmsg(int fd, size_t size) {
    struct mmsghdr messages[3];
    struct iovec vectors[6];
    three(messages, vectors, size);
    CHECK(sendmmsg(fd, messages, 3, 0) == 3);
    size_t moved = 0;
    for (int i = 0; i < 3; i++) moved += messages[i].msg_len;
    return sent(fd, size, moved);
}

static int file_of(size_t size) {
    int file = memfd_create("flavours", 0);
    CHECK(file >= 0 && write(file, bytes, size) == (ssize_t)size && lseek(file, 0, SEEK_SET) == 0);
    return file;
}

static size_t by_sendfile(int fd, size_t size) {
    int file = file_of(size);
    size_t done = 0;
    while (done < size) {
        ssize_t moved = sendfile(fd, file, NULL, size - done);
        CHECK(moved > 0);
        done += moved;
    }
    close(file);
    return done;
}

static size_t by_splice_into(int fd, size_t size) {
    int ends[2], file = file_of(size);
    CHECK(pipe(ends) == 0);
    size_t done = 0;
    while (done < size) {
        ssize_t read = splice(file, NULL, ends[1], NULL, size - done, 0);
        CHECK(read > 0);
        while (read > 0) {
            ssize_t moved = splice(ends[0], NULL, fd, NULL, read, 0);
            CHECK(moved > 0);
            read -= moved;
            done += moved;
        }
    }
    close(file), close(ends[0]), close(ends[1]);
    return done;
}

static size_t by_vmsplice(int fd, size_t size) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    size_t done = 0;
    while (done < size) {
        struct iovec one = {bytes + done, size - done};
        ssize_t filled = vmsplice(ends[1], &one, 1, 0);
        CHECK(filled > 0);
        while (filled > 0) {
            ssize_t moved = splice(ends[0], NULL, fd, NULL, filled, 0);
            CHECK(moved > 0);
            filled -= moved;
            done += moved;
        }
    }
    close(ends[0]), close(ends[1]);
    return done;
}

static size_t by_zerocopy_send(int fd, size_t size) {
    int yes = 1;
    CHECK(setsockopt(fd, SOL_SOCKET, 60 /* SO_ZEROCOPY */, &yes, sizeof yes) == 0);
    ssize_t moved = send(fd, bytes, size, 0x4000000 /* MSG_ZEROCOPY */);
    CHECK(moved > 0);
    /* The kernel says when it no longer needs the bytes; that is none of the stream. */
    struct pollfd error = {fd, 0, 0};
    char control[256];
    struct msghdr message = {.msg_control = control, .msg_controllen = sizeof control};
    CHECK(poll(&error, 1, 10000) == 1 && recvmsg(fd, &message, MSG_ERRQUEUE) >= 0);
    return sent(fd, size, moved);
}

static size_t by_dup(int fd, size_t size) {
    int twin = dup(fd);
    size_t moved = sent(twin, size / 2, write(twin, bytes, size / 2));
    close(twin);
    return moved + send_all(fd, size - moved);
}

static size_t by_fork(int fd, size_t size) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        send_all(fd, size / 2);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    return size / 2 + send_all(fd, size - size / 2);
}

/* Another process, to which the socket is passed, sends all of it. */
static size_t by_passing(int fd, size_t size) {
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
    struct iovec one = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (child == 0) {
        close(fd);
        CHECK(recvmsg(ends[1], &message, 0) == 1);
        int passed;
        memcpy(&passed, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof passed);
        send_all(passed, size);
        _exit(0);
    }
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    CHECK(sendmsg(ends[0], &message, 0) == 1);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(ends[0]), close(ends[1]);
    return size;
}

/* One operation of io_uring on a ring of its own; what it moved, or -1 where there is no io_uring. */
static ssize_t through_uring(int operation, int fd, size_t size) {
    unsigned params[30] = {0};
    int ring = syscall(SYS_io_uring_setup, 4, params);
    if (ring < 0) return -1;
    unsigned tail = params[11], array = params[16], completions = params[25];
    unsigned char *queue = mmap(NULL, completions + 4 * 16 * 8, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_POPULATE, ring, 0);
    unsigned char *entries = mmap(NULL, 4 * 64, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                                  ring, 0x10000000);
    CHECK(queue != MAP_FAILED && entries != MAP_FAILED);
    memset(entries, 0, 64);
    entries[0] = operation;
    *(int *)(entries + 4) = fd;
    *(unsigned long long *)(entries + 8) = operation < URING_SEND ? -1ULL : 0;
    *(unsigned long long *)(entries + 16) = (unsigned long long)bytes;
    *(unsigned *)(entries + 24) = size;
    *(unsigned *)(queue + array) = 0;
    __atomic_store_n((unsigned *)(queue + tail), 1, __ATOMIC_RELEASE);
    CHECK(syscall(SYS_io_uring_enter, ring, 1, 1, 1, NULL, 0) == 1);
    int result = *(int *)(queue + completions + 8);
    CHECK(result > 0);
    close(ring);
    return result;
}

static size_t by_uring_send(int fd, size_t size) {
    return sent(fd, size, through_uring(URING_SEND, fd, size));
}
static size_t by_uring_write(int fd, size_t size) {
    return sent(fd, size, through_uring(URING_WRITE, fd, size));
}
static size_t by_uring_recv(int fd, size_t size) {
    return received(fd, size, through_uring(URING_RECV, fd, size));
}
static size_t by_uring_read(int fd, size_t size) {
    return received(fd, size, through_uring(URING_READ, fd, size));
}

static size_t by_read(int fd, size_t size) { return received(fd, size, read(fd, bytes, size)); }
static size_t by_recv(int fd, size_t size) { return received(fd, size, recv(fd, bytes, size, MSG_WAITALL)); }
static size_t by_recvfrom(int fd, size_t size) {
    return received(fd, size, recvfrom(fd, bytes, size, 0, NULL, NULL));
}
static size_t by_peek(int fd, size_t size) {
    CHECK(recv(fd, bytes, size, MSG_PEEK | MSG_WAITALL) == (ssize_t)size);
    CHECK(recv(fd, bytes, 10, MSG_PEEK) == 10);
    return recv_all(fd, size);
}
static size_t by_truncating(int fd, size_t size) {
    return received(fd, size, recv(fd, NULL, size, MSG_TRUNC));
}

static size_t by_readv(int fd, size_t size) {
    struct iovec four[4];
    parts(four, size);
    return received(fd, size, readv(fd, four, 4));
}

static size_t by_preadv2(int fd, size_t size) {
    struct iovec four[4];
    parts(four, size);
    return received(fd, size, preadv2(fd, four, 4, -1, 0));
}

static size_t by_recvmsg(int fd, size_t size) {
    struct iovec four[4];
    parts(four, size);
    struct msghdr message = {.msg_iov = four, .msg_iovlen = 4};
    return received(fd, size, recvmsg(fd, &message, 0));
}

static size_t mmsg(int fd, size_t size, struct timespec *timeout) {
    struct mmsghdr messages[3];
    struct iovec vectors[6];
    three(messages, vectors, size);
    int count = recvmmsg(fd, messages, 3, MSG_WAITALL, timeout);
    CHECK(count > 0);
    size_t moved = 0;
    for (int i = 0; i < count; i++) moved += messages[i].msg_len;
    return received(fd, size, moved);
}
static size_t by_recvmmsg(int fd, size_t size) { return mmsg(fd, size, NULL); }
static size_t by_recvmmsg_timeout(int fd, size_t size) {
    struct timespec timeout = {30, 0};
    return mmsg(fd, size, &timeout);
}

/* Takes `size` bytes out of the socket without ever having them in a buffer. */
static size_t spliced(int fd, size_t size) {
    int ends[2], nowhere = open("/dev/null", O_WRONLY);
    CHECK(pipe(ends) == 0 && nowhere >= 0);
    size_t done = 0;
    while (done < size) {
        ssize_t moved = splice(fd, NULL, ends[1], NULL, size - done, 0);
        CHECK(moved > 0);
        done += moved;
        while (moved > 0) {
            ssize_t gone = splice(ends[0], NULL, nowhere, NULL, moved, 0);
            CHECK(gone > 0);
            moved -= gone;
        }
    }
    close(nowhere), close(ends[0]), close(ends[1]);
    return done;
}
static size_t by_splice_out(int fd, size_t size) { return spliced(fd, size); }
static size_t by_splice_between(int fd, size_t size) {
    size_t moved = recv_all(fd, 100);
    moved += spliced(fd, size - 200);
    return moved + recv_all(fd, 100);
}

/* Maps what came where whole pages came, and receives the rest. */
static size_t by_zerocopy_receive(int fd, size_t size) {
    struct {
        unsigned long long address;
        unsigned length, skip, waiting;
        int error;
        unsigned long long buffer;
        int buffer_len;
        unsigned flags;
    } receive;
    size_t room = 64 * PAGE, done = 0, mapped = 0;
    void *place = mmap(NULL, room, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(place != MAP_FAILED);
    while (done < size) {
        struct pollfd more = {fd, POLLIN, 0};
        CHECK(poll(&more, 1, 10000) == 1);
        memset(&receive, 0, sizeof receive);
        receive.address = (unsigned long long)place;
        receive.length = room;
        socklen_t length = sizeof receive;
        CHECK(getsockopt(fd, IPPROTO_TCP, 35 /* TCP_ZEROCOPY_RECEIVE */, &receive, &length) == 0);
        mapped += receive.length;
        done += receive.length;
        if (receive.skip && done < size) {
            size_t rest = receive.skip < size - done ? receive.skip : size - done;
            done += recv_all(fd, rest);
        }
    }
    munmap(place, room);
    fprintf(stderr, "%zu of %zu bytes were mapped\n", mapped, size);
    return done;
}

enum { SENDS = 1, FROM_FILE = 2, URING = 4 };

static const struct {
    const char *name;
    flavour move;
    size_t size;
    int kind;
} flavours[] = {
    {"write", by_write, 10007, SENDS},
    {"send", by_send, 10007, SENDS},
    {"send_more", by_send_more, 10007, SENDS},
    {"sendto", by_sendto, 10007, SENDS},
    {"writev", by_writev, 10007, SENDS},
    {"pwritev2", by_pwritev2, 10007, SENDS},
    {"sendmsg", by_sendmsg, 10007, SENDS},
    {"sendmmsg", by_sendmmsg, 10007, SENDS},
    {"sendfile", by_sendfile, 100003, SENDS},
    {"splice_into", by_splice_into, 100003, SENDS},
    {"vmsplice", by_vmsplice, 100003, SENDS},
    {"zerocopy_send", by_zerocopy_send, 40009, SENDS},
    {"dup", by_dup, 10007, SENDS},
    {"fork", by_fork, 10007, SENDS},
    {"passing", by_passing, 10007, SENDS},
    {"uring_send", by_uring_send, 10007, SENDS | URING},
    {"uring_write", by_uring_write, 10007, SENDS | URING},
    {"read", by_read, 10007, 0},
    {"recv", by_recv, 10007, 0},
    {"recvfrom", by_recvfrom, 10007, 0},
    {"peek", by_peek, 10007, 0},
    {"truncating", by_truncating, 10007, 0},
    {"readv", by_readv, 10007, 0},
    {"preadv2", by_preadv2, 10007, 0},
    {"recvmsg", by_recvmsg, 10007, 0},
    {"recvmmsg", by_recvmmsg, 10007, 0},
    {"recvmmsg_timeout", by_recvmmsg_timeout, 10007, 0},
    {"splice_out", by_splice_out, 100003, 0},
    {"splice_between", by_splice_between, 100003, 0},
    {"zerocopy_receive", by_zerocopy_receive, 32 * PAGE, FROM_FILE},
    {"uring_recv", by_uring_recv, 10007, URING},
    {"uring_read", by_uring_read, 10007, URING},
};

static void play(int number) {
    int port = 4800 + number, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(listener, (void *)&address, sizeof address) == 0 && listen(listener, 1) == 0);
    int end = socket(AF_INET, SOCK_STREAM, 0);
    int large = 4 << 20;
    CHECK(setsockopt(end, SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof large) == 0);
    CHECK(setsockopt(end, SOL_SOCKET, SO_RCVBUFFORCE, &large, sizeof large) == 0);
    CHECK(connect(end, (void *)&address, sizeof address) == 0);
    int other = accept(listener, NULL, NULL);
    CHECK(other >= 0);
    CHECK(setsockopt(other, SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof large) == 0);
    CHECK(setsockopt(other, SOL_SOCKET, SO_RCVBUFFORCE, &large, sizeof large) == 0);
    size_t size = flavours[number].size, moved;
    int sends = flavours[number].kind & SENDS;
    if (sends) {
        moved = flavours[number].move(end, size);
        recv_all(other, moved);
        send_all(other, 1);
        recv_all(end, 1);
    } else {
        send_all(end, 1);
        recv_all(other, 1);
        if (flavours[number].kind & FROM_FILE) by_sendfile(other, size);
        else send_all(other, size);
        moved = flavours[number].move(end, size);
    }
    CHECK(moved == size);
    /* The listener goes first, so that no connection waits for one that is gone. */
    close(listener), close(end), close(other);
    printf("%s %d %zu %zu\n", flavours[number].name, port, sends ? moved : 1, sends ? 1 : moved);
}

int main(void) {
    unsigned params[30] = {0};
    int ring = syscall(SYS_io_uring_setup, 4, params);
    if (ring < 0) {
        fprintf(stderr, "there is no io_uring here: %s\n", strerror(errno));
        uring = 0;
    } else {
        close(ring);
    }
    for (size_t number = 0; number < sizeof flavours / sizeof *flavours; number++)
        if (uring || !(flavours[number].kind & URING)) play(number);
    return 0;
}
