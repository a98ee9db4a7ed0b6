/* Records between a non-blocking socket and memory: one call for each time that the socket is ready.
 *
 * mt_send seals and sends until the socket is full; records that it did not accept are buffered for the next call.
 * mt_receive receives and opens until the socket is empty; an incomplete record is buffered likewise. Directions
 * may be replaced between two calls (KeyUpdate): pending output is sealed already, pending input not opened yet.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    SPARE = 64, /* for a close_notify alert after a batch */
    BUFFER = BATCH_SEALED + SPARE,
};

/* NULL: out of memory. Unused pages cost nothing; the one after the buffer is a guard page. */
struct buffer *mt_buffer_new(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (BUFFER + page - 1) / page * page;
    struct buffer *buffer = calloc(1, sizeof *buffer);
    uint8_t *mapping;

    if (buffer == NULL)
        return NULL;
    mapping = mmap(NULL, size + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED || mprotect(mapping, size, PROT_READ | PROT_WRITE) != 0) {
        if (mapping != MAP_FAILED)
            munmap(mapping, size + page);
        free(buffer);
        return NULL;
    }
    buffer->mapping = mapping;
    buffer->mapped = size + page;
    buffer->memory = mapping + size - BUFFER;
    atomic_flag_clear(&buffer->busy);
    return buffer;
}

/* To be called once, with no other call in progress. */
void mt_buffer_free(struct buffer *buffer)
{
    munmap(buffer->mapping, buffer->mapped);
    free(buffer);
}

/* Return the number of pending bytes. */
size_t mt_buffer_waiting(const struct buffer *buffer)
{
    return buffer->end - buffer->start;
}

/* Append bytes to the pending ones: records received or sealed elsewhere. Return 0 if they do not fit. */
int mt_buffer_put(struct buffer *buffer, const uint8_t *data, size_t size)
{
    if (size > BUFFER - buffer->end)
        return 0;
    memcpy(buffer->memory + buffer->end, data, size);
    buffer->end += size;
    return 1;
}

int buffer_enter(struct direction *direction, struct buffer *buffer)
{
    if (atomic_flag_test_and_set_explicit(&buffer->busy, memory_order_acquire))
        return 0;
    if (direction_enter(direction))
        return 1;
    atomic_flag_clear_explicit(&buffer->busy, memory_order_release);
    return 0;
}

void buffer_leave(struct direction *direction, struct buffer *buffer)
{
    direction_leave(direction);
    atomic_flag_clear_explicit(&buffer->busy, memory_order_release);
}

/* Send the pending bytes. Return 0, or why not all were sent. */
int buffer_flush(struct buffer *buffer, int fd, int more, struct sent *sent)
{
    size_t waiting = buffer->end - buffer->start;
    ssize_t count;

    if (waiting == 0)
        return 0;
    do
        count = send(fd, buffer->memory + buffer->start, waiting, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0));
    while (count < 0 && errno == EINTR);
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return SOCKET_FULL;
    if (count < 0) {
        sent->error = errno;
        return SOCKET_FAILED;
    }
    sent->sent += (size_t)count;
    buffer->start += (size_t)count;
    if (buffer->start < buffer->end)
        return SOCKET_FULL; /* another send would return EAGAIN */
    buffer->start = buffer->end = 0;
    sent->gone += buffer->content;
    buffer->content = 0;
    return 0;
}

/* The loop of mt_send, for `content` bytes at the cursor. */
static int send_records(struct direction *direction, struct buffer *buffer, int fd, int type, struct cursor *from,
                        size_t content, int more, struct sent *sent)
{
    for (;;) {
        size_t batch = content < BATCH ? content : BATCH;
        int stop = buffer_flush(buffer, fd, more || content > 0, sent);
        int64_t size;

        if (stop != 0)
            return stop;
        if (content == 0)
            return INPUT_USED;
        if (sent->taken + batch > MOST_BYTES)
            return BUDGET;
        size = seal_records(direction, type, from, batch, buffer->memory, BATCH_SEALED);
        if (size < 0)
            return (int)size;
        buffer->end = (size_t)size;
        buffer->content = batch;
        sent->taken += batch;
        content -= batch;
    }
}

/* Send the pending bytes, then seal and send the pieces, until the socket is full. `more`: the caller has more to
 * send immediately (MSG_MORE: the kernel may delay a segment that is not full). INPUT_USED: all was sent. What the
 * socket had accepted before an error is sent. */
int mt_send(struct direction *direction, struct buffer *buffer, int fd, int type, const struct piece *pieces,
            size_t count, int more, struct sent *sent)
{
    struct cursor from = {pieces, pieces + count, 0};
    size_t content;
    int stop;

    *sent = (struct sent){0};
    if (!direction->aead.sealing || type < ALERT || type > DATA || !pieces_content(pieces, count, SIZE_MAX, &content))
        return MISUSE;
    if (content == 0 && type != DATA)
        return MISUSE; /* section 5.1 */
    if (!buffer_enter(direction, buffer))
        return BUSY;
    stop = send_records(direction, buffer, fd, type, &from, content, more, sent);
    sent->unsent = buffer->end - buffer->start;
    buffer_leave(direction, buffer);
    return stop;
}

/* Receive as much as fits into the buffer. Return 0, or why nothing was received. */
int buffer_fill(struct buffer *buffer, int fd, struct opened *opened)
{
    ssize_t count;

    memmove(buffer->memory, buffer->memory + buffer->start, buffer->end - buffer->start);
    buffer->end -= buffer->start;
    buffer->start = 0;
    do
        count = recv(fd, buffer->memory + buffer->end, BUFFER - buffer->end, MSG_DONTWAIT);
    while (count < 0 && errno == EINTR);
    if (count == 0)
        return SOCKET_ENDED;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return SOCKET_EMPTY;
    if (count < 0) {
        opened->error = errno;
        return SOCKET_FAILED;
    }
    buffer->end += (size_t)count;
    opened->received += (size_t)count;
    return 0;
}

/* Open pending and newly received records, until there is a reason to stop. `out` needs room for a complete record.
 * Data before an error, or the end, is valid. */
int mt_receive(struct direction *direction, struct buffer *buffer, int fd, uint8_t *out, size_t room,
               struct opened *opened)
{
    int stop;

    *opened = (struct opened){0};
    if (direction->aead.sealing)
        return MISUSE;
    if (!buffer_enter(direction, buffer))
        return BUSY;
    do {
        opened->consumed = 0;
        stop = open_records(direction, buffer->memory + buffer->start, buffer->end - buffer->start, out, room, opened);
        buffer->start += opened->consumed;
        if (stop == INPUT_USED)
            stop = opened->received < MOST_BYTES ? buffer_fill(buffer, fd, opened) : BUDGET;
    } while (stop == 0);
    buffer_leave(direction, buffer);
    return stop;
}
