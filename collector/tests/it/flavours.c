/* Moves known numbers of bytes over TCP connections with itself, by every flavour of call that Linux
 * has for it. For each it says on its standard output: name, port, bytes sent, bytes received, both of
 * the end that connected, and the way into the kernel: `call`, `uring`, `aio` or `compat`, a system call
 * of 32-bit programs. That end uses the flavour, the other one only `send` and `recv`. Ways that this
 * kernel lacks are named on its standard error.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <linux/tcp.h>
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

enum { PAGE = 4096, SOME = 10007, MANY = 100003, MOST = 1 << 20 };

/* In the lowest 4 GiB, where system calls of 32-bit programs find it. */
static char *bytes;

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, strerror(errno)); \
            exit(1); \
        } \
    } while (0)

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

/* Moves exactly `size` bytes from one end to another, of which one is a pipe. */
static void splice_all(int from, int to, size_t size) {
    while (size > 0) {
        ssize_t moved = splice(from, NULL, to, NULL, size, 0);
        CHECK(moved > 0);
        size -= moved;
    }
}

/* The same from anything to anything, through a pipe. */
static ssize_t pump(int from, int to, size_t size) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    for (size_t done = 0; done < size;) {
        ssize_t moved = splice(from, NULL, ends[1], NULL, size - done, 0);
        CHECK(moved > 0);
        splice_all(ends[0], to, moved);
        done += moved;
    }
    close(ends[0]), close(ends[1]);
    return size;
}

static ssize_t from_memory(int fd, size_t size) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    for (size_t done = 0; done < size;) {
        struct iovec one = {bytes + done, size - done};
        ssize_t moved = vmsplice(ends[1], &one, 1, 0);
        CHECK(moved > 0);
        splice_all(ends[0], fd, moved);
        done += moved;
    }
    close(ends[0]), close(ends[1]);
    return size;
}

/* A new file of `size` bytes at its beginning. */
static int file_of(size_t size) {
    int file = memfd_create("flavours", 0);
    CHECK(file >= 0 && write(file, bytes, size) == (ssize_t)size && lseek(file, 0, SEEK_SET) == 0);
    return file;
}

static ssize_t send_file(int fd, size_t size) {
    int file = file_of(size);
    for (size_t done = 0; done < size;) {
        ssize_t moved = sendfile(fd, file, NULL, size - done);
        CHECK(moved > 0);
        done += moved;
    }
    close(file);
    return size;
}

static ssize_t splice_file(int fd, size_t size) {
    int file = file_of(size);
    pump(file, fd, size);
    close(file);
    return size;
}

/* `size` bytes in four parts, the second of which is empty. */
static struct msghdr in_parts(struct iovec *parts, size_t size) {
    size_t first = size / 5;
    parts[0] = (struct iovec){bytes, first};
    parts[1] = (struct iovec){bytes, 0};
    parts[2] = (struct iovec){bytes + first, 1};
    parts[3] = (struct iovec){bytes + first + 1, size - first - 1};
    return (struct msghdr){.msg_iov = parts, .msg_iovlen = 4};
}

enum direction { IN, OUT };

/* `size` bytes in three messages, one of which has several parts, by one call. */
static ssize_t three(enum direction direction, int fd, size_t size, struct timespec *timeout) {
    struct iovec parts[4], second = {bytes, size / 3}, third = {bytes, size - 2 * (size / 3)};
    struct mmsghdr messages[3] = {
        {.msg_hdr = in_parts(parts, size / 3)},
        {.msg_hdr = {.msg_iov = &second, .msg_iovlen = 1}},
        {.msg_hdr = {.msg_iov = &third, .msg_iovlen = 1}},
    };
    int count = direction == OUT ? sendmmsg(fd, messages, 3, 0)
                                 : recvmmsg(fd, messages, 3, MSG_WAITALL, timeout);
    CHECK(count > 0 && (direction == IN || count == 3));
    ssize_t moved = 0;
    for (int i = 0; i < count; i++) moved += messages[i].msg_len;
    return moved;
}

/* The kernel says when it no longer needs the bytes; that is none of the stream. */
static ssize_t send_zerocopy(int fd, size_t size) {
    int yes = 1;
    CHECK(setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &yes, sizeof yes) == 0);
    ssize_t moved = send(fd, bytes, size, MSG_ZEROCOPY);
    struct pollfd error = {fd, 0, 0};
    char control[256];
    struct msghdr message = {.msg_control = control, .msg_controllen = sizeof control};
    CHECK(poll(&error, 1, 10000) == 1 && recvmsg(fd, &message, MSG_ERRQUEUE) >= 0);
    return moved;
}

static ssize_t by_a_twin(int fd, size_t size) {
    int twin = dup(fd);
    ssize_t moved = write(twin, bytes, size);
    close(twin);
    return moved;
}

static void join(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* A child that inherits the socket sends half of it. */
static ssize_t by_a_child(int fd, size_t size) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        send_all(fd, size / 2);
        _exit(0);
    }
    join(child);
    return size / 2;
}

/* Another process, to which the socket is passed, sends all of it. */
static ssize_t by_another(int fd, size_t size) {
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    char control[CMSG_SPACE(sizeof fd)] = {0}, byte = 0;
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
    join(child);
    close(ends[0]), close(ends[1]);
    return size;
}

/* What is only looked at is moved by the calls that follow. */
static ssize_t peek(int fd, size_t size) {
    CHECK(recv(fd, bytes, size, MSG_PEEK | MSG_WAITALL) == (ssize_t)size);
    CHECK(recv(fd, bytes, 10, MSG_PEEK) == 10);
    return 0;
}

/* The last byte is urgent and is received apart from the others, before or after them. */
static ssize_t urgent_first(int fd, size_t size) {
    struct pollfd urgent = {fd, POLLPRI, 0};
    CHECK(poll(&urgent, 1, 10000) == 1 && recv(fd, bytes, 1, MSG_OOB) == 1);
    return 1 + recv_all(fd, size - 1);
}
static ssize_t urgent_last(int fd, size_t size) {
    recv_all(fd, size - 1);
    struct pollfd urgent = {fd, POLLPRI, 0};
    CHECK(poll(&urgent, 1, 10000) == 1 && recv(fd, bytes, 1, MSG_OOB) == 1);
    return size;
}

/* Takes bytes out of the socket without ever having them in a buffer. */
static ssize_t to_nowhere(int fd, size_t size) {
    int nowhere = open("/dev/null", O_WRONLY);
    pump(fd, nowhere, size);
    close(nowhere);
    return size;
}

/* Maps what came where whole pages came, and receives the rest. */
static ssize_t receive_zerocopy(int fd, size_t size) {
    size_t room = 64 * PAGE, done = 0, mapped = 0;
    void *place = mmap(NULL, room, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(place != MAP_FAILED);
    while (done < size) {
        struct pollfd more = {fd, POLLIN, 0};
        CHECK(poll(&more, 1, 10000) == 1);
        struct tcp_zerocopy_receive receive = {.address = (__u64)place, .length = room};
        socklen_t length = sizeof receive;
        CHECK(getsockopt(fd, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &receive, &length) == 0);
        mapped += receive.length;
        done += receive.length;
        size_t left = size - done, skip = receive.recv_skip_hint;
        if (skip && left) done += recv_all(fd, skip < left ? skip : left);
    }
    munmap(place, room);
    fprintf(stderr, "%zu of %zu bytes were mapped\n", mapped, size);
    return done;
}

/* One operation of io_uring on a ring of its own; what it moved. */
static ssize_t uring(int operation, int fd, const void *what, size_t length, __u64 offset) {
    struct io_uring_params params = {0};
    int ring = syscall(SYS_io_uring_setup, 4, &params);
    CHECK(ring >= 0);
    int access = PROT_READ | PROT_WRITE, kind = MAP_SHARED | MAP_POPULATE;
    size_t room = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    size_t entries_room = params.sq_entries * sizeof(struct io_uring_sqe);
    char *queues = mmap(NULL, room, access, kind, ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *entry = mmap(NULL, entries_room, access, kind, ring, IORING_OFF_SQES);
    CHECK(queues != MAP_FAILED && entry != MAP_FAILED);
    *entry = (struct io_uring_sqe){
        .opcode = operation, .fd = fd, .off = offset, .addr = (__u64)what, .len = length};
    *(__u32 *)(queues + params.sq_off.array) = 0;
    __atomic_store_n((__u32 *)(queues + params.sq_off.tail), 1, __ATOMIC_RELEASE);
    CHECK(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
    ssize_t moved = ((struct io_uring_cqe *)(queues + params.cq_off.cqes))->res;
    munmap(queues, room), munmap(entry, entries_room), close(ring);
    return moved;
}

/* One operation of Linux' older asynchronous calls; what it moved. */
static ssize_t aio(int operation, int fd, size_t size) {
    aio_context_t context = 0;
    struct iocb one = {
        .aio_lio_opcode = operation, .aio_fildes = fd, .aio_buf = (__u64)bytes, .aio_nbytes = size};
    struct iocb *all[] = {&one};
    struct io_event event;
    CHECK(syscall(SYS_io_setup, 1, &context) == 0);
    CHECK(syscall(SYS_io_submit, context, 1, all) == 1);
    CHECK(syscall(SYS_io_getevents, context, 1, 1, &event, NULL) == 1);
    CHECK(syscall(SYS_io_destroy, context) == 0);
    return event.res;
}

enum compat { COMPAT_READ = 3, COMPAT_WRITE = 4, COMPAT_GETPID = 20 };

/* A system call as 32-bit programs make it. */
static ssize_t compat(enum compat number, int fd, size_t size) {
    int result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(number), "b"(fd), "c"((unsigned)(size_t)bytes), "d"((unsigned)size)
                     : "memory", "r8", "r9", "r10", "r11");
    return result;
}

enum kind { RECEIVES, FROM_FILE, WITH_URGENT, SENDS };
enum way { CALL, URING, AIO, COMPAT };
static const char *const ways[] = {"call", "uring", "aio", "compat"};

/* Name, kind, way, `size`, and how many bytes were moved of these. They are at `bytes`, the same are in
 * four `parts`, and a `message` of those. What is left is moved by `send` or `recv`.
 */
#define FLAVOURS(FLAVOUR) \
    FLAVOUR(write, SENDS, CALL, SOME, write(fd, bytes, size)) \
    FLAVOUR(send, SENDS, CALL, SOME, send(fd, bytes, size, MSG_NOSIGNAL)) \
    FLAVOUR(send_more, SENDS, CALL, SOME, send(fd, bytes, size / 2, MSG_MORE)) \
    FLAVOUR(send_urgent, SENDS, CALL, SOME, send(fd, bytes, size / 2, MSG_OOB)) \
    FLAVOUR(sendto, SENDS, CALL, SOME, sendto(fd, bytes, size, 0, NULL, 0)) \
    FLAVOUR(writev, SENDS, CALL, SOME, writev(fd, parts, 4)) \
    FLAVOUR(pwritev2, SENDS, CALL, SOME, pwritev2(fd, parts, 4, -1, 0)) \
    FLAVOUR(sendmsg, SENDS, CALL, SOME, sendmsg(fd, &message, 0)) \
    FLAVOUR(sendmmsg, SENDS, CALL, SOME, three(OUT, fd, size, NULL)) \
    FLAVOUR(sendfile, SENDS, CALL, MANY, send_file(fd, size)) \
    FLAVOUR(splice_into, SENDS, CALL, MANY, splice_file(fd, size)) \
    FLAVOUR(vmsplice, SENDS, CALL, MANY, from_memory(fd, size)) \
    FLAVOUR(zerocopy_send, SENDS, CALL, 4 * SOME, send_zerocopy(fd, size)) \
    FLAVOUR(dup, SENDS, CALL, SOME, by_a_twin(fd, size / 2)) \
    FLAVOUR(fork, SENDS, CALL, SOME, by_a_child(fd, size)) \
    FLAVOUR(passing, SENDS, CALL, SOME, by_another(fd, size)) \
    FLAVOUR(uring_write, SENDS, URING, SOME, uring(IORING_OP_WRITE, fd, bytes, size, -1)) \
    FLAVOUR(uring_writev, SENDS, URING, SOME, uring(IORING_OP_WRITEV, fd, parts, 4, -1)) \
    FLAVOUR(uring_send, SENDS, URING, SOME, uring(IORING_OP_SEND, fd, bytes, size, 0)) \
    FLAVOUR(uring_sendmsg, SENDS, URING, SOME, uring(IORING_OP_SENDMSG, fd, &message, 1, 0)) \
    FLAVOUR(aio_write, SENDS, AIO, SOME, aio(IOCB_CMD_PWRITE, fd, size)) \
    FLAVOUR(compat_write, SENDS, COMPAT, SOME, compat(COMPAT_WRITE, fd, size)) \
    FLAVOUR(read, RECEIVES, CALL, SOME, read(fd, bytes, size)) \
    FLAVOUR(recv, RECEIVES, CALL, SOME, recv(fd, bytes, size, MSG_WAITALL)) \
    FLAVOUR(recvfrom, RECEIVES, CALL, SOME, recvfrom(fd, bytes, size, 0, NULL, NULL)) \
    FLAVOUR(peek, RECEIVES, CALL, SOME, peek(fd, size)) \
    FLAVOUR(truncating, RECEIVES, CALL, SOME, recv(fd, NULL, size, MSG_TRUNC)) \
    FLAVOUR(urgent_first, WITH_URGENT, CALL, SOME, urgent_first(fd, size)) \
    FLAVOUR(urgent_last, WITH_URGENT, CALL, SOME, urgent_last(fd, size)) \
    FLAVOUR(readv, RECEIVES, CALL, SOME, readv(fd, parts, 4)) \
    FLAVOUR(preadv2, RECEIVES, CALL, SOME, preadv2(fd, parts, 4, -1, 0)) \
    FLAVOUR(recvmsg, RECEIVES, CALL, SOME, recvmsg(fd, &message, 0)) \
    FLAVOUR(recvmmsg, RECEIVES, CALL, SOME, three(IN, fd, size, NULL)) \
    FLAVOUR(recvmmsg_timeout, RECEIVES, CALL, SOME, three(IN, fd, size, &(struct timespec){30, 0})) \
    FLAVOUR(splice_out, RECEIVES, CALL, MANY, to_nowhere(fd, size)) \
    FLAVOUR(splice_between, RECEIVES, CALL, MANY, recv_all(fd, 100) + to_nowhere(fd, size - 200)) \
    FLAVOUR(zerocopy_receive, FROM_FILE, CALL, 32 * PAGE, receive_zerocopy(fd, size)) \
    FLAVOUR(uring_read, RECEIVES, URING, SOME, uring(IORING_OP_READ, fd, bytes, size, -1)) \
    FLAVOUR(uring_readv, RECEIVES, URING, SOME, uring(IORING_OP_READV, fd, parts, 4, -1)) \
    FLAVOUR(uring_recv, RECEIVES, URING, SOME, uring(IORING_OP_RECV, fd, bytes, size, 0)) \
    FLAVOUR(uring_recvmsg, RECEIVES, URING, SOME, uring(IORING_OP_RECVMSG, fd, &message, 1, 0)) \
    FLAVOUR(aio_read, RECEIVES, AIO, SOME, aio(IOCB_CMD_PREAD, fd, size)) \
    FLAVOUR(compat_read, RECEIVES, COMPAT, SOME, compat(COMPAT_READ, fd, size))

#define FUNCTION(name, kind, way, size_, moved) \
    static ssize_t by_##name(int fd, size_t size) { \
        struct iovec parts[4]; \
        struct msghdr message = in_parts(parts, size); \
        (void)message; \
        return moved; \
    }
FLAVOURS(FUNCTION)

#define ENTRY(name, kind, way, size, moved) {#name, by_##name, size, kind, way},
static const struct {
    const char *name;
    ssize_t (*move)(int fd, size_t size);
    size_t size;
    enum kind kind;
    enum way way;
} flavours[] = {FLAVOURS(ENTRY)};

static int enlarged(int end) {
    int large = 4 << 20;
    CHECK(end >= 0);
    CHECK(setsockopt(end, SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof large) == 0);
    CHECK(setsockopt(end, SOL_SOCKET, SO_RCVBUFFORCE, &large, sizeof large) == 0);
    return end;
}

static void play(int number) {
    int port = 4800 + number, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(listener, (void *)&address, sizeof address) == 0 && listen(listener, 1) == 0);
    int end = enlarged(socket(AF_INET, SOCK_STREAM, 0));
    CHECK(connect(end, (void *)&address, sizeof address) == 0);
    int other = enlarged(accept(listener, NULL, NULL));
    size_t size = flavours[number].size;
    enum kind kind = flavours[number].kind;
    int sends = kind == SENDS, yes = 1;
    /* Whatever is urgent the other end receives as if it was not. */
    CHECK(setsockopt(other, SOL_SOCKET, SO_OOBINLINE, &yes, sizeof yes) == 0);
    if (!sends) send_all(end, 1), recv_all(other, 1);
    if (kind == RECEIVES) send_all(other, size);
    if (kind == FROM_FILE) send_file(other, size);
    if (kind == WITH_URGENT) CHECK(send(other, bytes, size, MSG_OOB) == (ssize_t)size);
    ssize_t moved = flavours[number].move(end, size);
    if (moved < 0 || (size_t)moved > size) {
        fprintf(stderr, "%s gave %zd: %s\n", flavours[number].name, moved, strerror(errno));
        exit(1);
    }
    if (sends) {
        send_all(end, size - moved), recv_all(other, size);
        send_all(other, 1), recv_all(end, 1);
    } else {
        recv_all(end, size - moved);
    }
    /* The listener goes first, so that no connection waits for one that is gone. */
    close(listener), close(end), close(other);
    printf("%s %d %zu %zu %s\n", flavours[number].name, port, sends ? size : 1, sends ? 1 : size,
           ways[flavours[number].way]);
}

/* Whether this kernel has io_uring, and lets us. */
static int has_uring(void) {
    struct io_uring_params params = {0};
    int ring = syscall(SYS_io_uring_setup, 4, &params);
    return ring >= 0 && close(ring) == 0;
}

static int has_aio(void) {
    aio_context_t context = 0;
    return syscall(SYS_io_setup, 1, &context) == 0 && syscall(SYS_io_destroy, context) == 0;
}

/* Where 32-bit programs do not run, who tries is ended. */
static int has_compat(void) {
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) _exit(compat(COMPAT_GETPID, 0, 0) != getpid());
    CHECK(waitpid(child, &status, 0) == child);
    return status == 0;
}

int main(void) {
    bytes = mmap(NULL, MOST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    CHECK(bytes != MAP_FAILED);
    int has[] = {[CALL] = 1, [URING] = has_uring(), [AIO] = has_aio(), [COMPAT] = has_compat()};
    for (enum way way = CALL; way <= COMPAT; way++)
        if (!has[way]) fprintf(stderr, "there is no %s here\n", ways[way]);
    for (size_t number = 0; number < sizeof flavours / sizeof *flavours; number++)
        if (has[flavours[number].way]) play(number);
    return 0;
}
