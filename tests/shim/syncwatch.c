/* Watches a process's journal and sockets, and breaks them on demand. Preloaded (LD_PRELOAD) by test_sync_before_answer.py.
 *
 * One line a call goes to $SYNCWATCH_LOG, written with a single O_APPEND write, so the lines of all threads stand in one
 * order. Each line is written on the side of its call that makes the order mean something:
 *   recv FD MARK      after the bytes of a request arrived
 *   write PATH MARK   after bytes went to a journal (a path below $SYNCWATCH_STATE that ends in .jnl)
 *   begin PATH        before its fdatasync or fsync
 *   synced PATH       after that returned 0
 *   unsynced PATH     after it failed
 *   send FD STATUS    before an HTTP status line leaves
 * MARK is the text "mark:" and 16 characters, looked for in the bytes.
 *
 * The file $SYNCWATCH_CONTROL says what to break: "fail" (journal syncs return EIO), "block" (they wait until the file says
 * otherwise), "full" (writes below $SYNCWATCH_SINK return ENOSPC).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MARK "mark:"
#define MARK_LENGTH (sizeof(MARK) - 1 + 16)

static int log_fd = -1;
static const char *state_folder, *sink_folder, *control_file;

static void line(const char *format, ...) {
    char text[PATH_MAX + 128];
    va_list arguments;
    if (log_fd < 0) return;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length > 0 && length < (int)sizeof text) syscall(SYS_write, log_fd, text, (size_t)length);
}

__attribute__((constructor)) static void set_up(void) {
    const char *log_file = getenv("SYNCWATCH_LOG");
    state_folder = getenv("SYNCWATCH_STATE");
    sink_folder = getenv("SYNCWATCH_SINK");
    control_file = getenv("SYNCWATCH_CONTROL");
    if (log_file) log_fd = (int)syscall(SYS_openat, AT_FDCWD, log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* The path of fd if it lies below folder. */
static int below(int fd, const char *folder, char *path) {
    char link[64];
    if (!folder || !*folder) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    size_t head = strlen(folder);
    return strncmp(path, folder, head) == 0 && path[head] == '/';
}

static int is_journal(int fd, char *path) {
    if (!below(fd, state_folder, path)) return 0;
    size_t length = strlen(path);
    return length > 4 && strcmp(path + length - 4, ".jnl") == 0;
}

static int is_socket(int fd) {
    int kind;
    socklen_t size = sizeof kind;
    int saved = errno;
    int is = getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) == 0;
    errno = saved;
    return is;
}

static int told_to(const char *what) {
    char text[16] = {0};
    if (!control_file) return 0;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, control_file, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return 0;
    ssize_t length = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    return length > 0 && strncmp(text, what, strlen(what)) == 0;
}

/* Logs every mark in the bytes; what and where begin the line. */
static void marks(const char *what, const char *where, const void *bytes, size_t length) {
    const char *from = bytes, *end = from + length;
    while (from < end) {
        const char *found = memmem(from, (size_t)(end - from), MARK, sizeof(MARK) - 1);
        if (!found || (size_t)(end - found) < MARK_LENGTH) return;
        line("%s %s %.*s\n", what, where, (int)MARK_LENGTH, found);
        from = found + MARK_LENGTH;
    }
}

static void on_receive(int fd, const void *bytes, ssize_t length) {
    char where[16];
    if (length <= 0) return;
    int saved = errno;
    snprintf(where, sizeof where, "%d", fd);
    marks("recv", where, bytes, (size_t)length);
    errno = saved;
}

static void on_send(int fd, const void *bytes, size_t length) {
    int saved = errno;
    if (length >= 12 && memcmp(bytes, "HTTP/1.1 ", 9) == 0) line("send %d %.3s\n", fd, (const char *)bytes + 9);
    errno = saved;
}

static int is_full(int fd) {
    char path[PATH_MAX];
    int saved = errno;
    int full = below(fd, sink_folder, path) && told_to("full");
    errno = saved;
    return full;
}

static void on_written(int fd, const void *bytes, ssize_t length) {
    char path[PATH_MAX];
    int saved = errno;
    if (length > 0 && is_journal(fd, path)) marks("write", path, bytes, (size_t)length);
    errno = saved;
}

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *bytes, size_t length) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (is_full(fd)) {
        errno = ENOSPC;
        return -1;
    }
    if (is_socket(fd)) on_send(fd, bytes, length);
    ssize_t written = real(fd, bytes, length);
    on_written(fd, bytes, written);
    return written;
}

static ssize_t written_at(int fd, const void *bytes, size_t length, off64_t at,
                          ssize_t (*real)(int, const void *, size_t, off64_t)) {
    if (is_full(fd)) {
        errno = ENOSPC;
        return -1;
    }
    ssize_t written = real(fd, bytes, length, at);
    on_written(fd, bytes, written);
    return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return written_at(fd, bytes, length, at, real);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return written_at(fd, bytes, length, at, real);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (is_full(fd)) {
        errno = ENOSPC;
        return -1;
    }
    if (count > 0 && is_socket(fd)) on_send(fd, parts[0].iov_base, parts[0].iov_len);
    ssize_t written = real(fd, parts, count);
    for (ssize_t i = 0, left = written; i < count && left > 0; i++) {
        ssize_t part = left < (ssize_t)parts[i].iov_len ? left : (ssize_t)parts[i].iov_len;
        on_written(fd, parts[i].iov_base, part);
        left -= part;
    }
    return written;
}

ssize_t send(int fd, const void *bytes, size_t length, int flags) {
    REAL(ssize_t, "send", int, const void *, size_t, int);
    on_send(fd, bytes, length);
    return real(fd, bytes, length, flags);
}

ssize_t sendto(int fd, const void *bytes, size_t length, int flags, const struct sockaddr *to, socklen_t size) {
    REAL(ssize_t, "sendto", int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    on_send(fd, bytes, length);
    return real(fd, bytes, length, flags, to, size);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    REAL(ssize_t, "sendmsg", int, const struct msghdr *, int);
    if (message && message->msg_iovlen > 0) on_send(fd, message->msg_iov[0].iov_base, message->msg_iov[0].iov_len);
    return real(fd, message, flags);
}

ssize_t recv(int fd, void *bytes, size_t length, int flags) {
    REAL(ssize_t, "recv", int, void *, size_t, int);
    ssize_t received = real(fd, bytes, length, flags);
    on_receive(fd, bytes, received);
    return received;
}

ssize_t recvfrom(int fd, void *bytes, size_t length, int flags, struct sockaddr *from, socklen_t *size) {
    REAL(ssize_t, "recvfrom", int, void *, size_t, int, struct sockaddr *, socklen_t *);
    ssize_t received = real(fd, bytes, length, flags, from, size);
    on_receive(fd, bytes, received);
    return received;
}

ssize_t read(int fd, void *bytes, size_t length) {
    REAL(ssize_t, "read", int, void *, size_t);
    ssize_t received = real(fd, bytes, length);
    if (received > 0 && is_socket(fd)) on_receive(fd, bytes, received);
    return received;
}

static int synced(int fd, int (*real)(int)) {
    char path[PATH_MAX];
    int saved = errno;
    int journal = is_journal(fd, path);
    errno = saved;
    if (!journal) return real(fd);
    line("begin %s\n", path);
    while (told_to("block")) {
        struct timespec pause = {0, 5000000};
        nanosleep(&pause, NULL);
    }
    int result = -1;
    if (told_to("fail")) {
        saved = EIO;
    } else {
        errno = saved;
        result = real(fd);
        saved = errno;
    }
    line("%s %s\n", result == 0 ? "synced" : "unsynced", path);
    errno = saved;
    return result;
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return synced(fd, real);
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return synced(fd, real);
}
