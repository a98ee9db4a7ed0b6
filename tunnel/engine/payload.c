/* Payload of streams between a hypervisor's socket and a lane's: the data of one loop iteration, in one call.
 *
 * mt_carry reads, frames, seals and sends; mt_pass receives, opens and writes. Both do so batch by batch, each of
 * which fits in a level-2 cache. Data that is not payload of a stream, in order and within its window, mt_pass
 * leaves to the caller unchanged: Python enforces the protocol. Neither socket blocks.
 */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum {
    FRAME_DATA = 19,          /* the type of a DATA frame: SPEC.md section 3 */
    FRAME_MOST = 1 << 20,     /* most bytes of its payload */
};

static void put(uint8_t *to, uint64_t number, int size)
{
    while (size > 0) {
        to[--size] = (uint8_t)number;
        number >>= 8;
    }
}

static uint64_t get(const uint8_t *from, int size)
{
    uint64_t number = 0;

    for (int i = 0; i < size; i++)
        number = number << 8 | from[i];
    return number;
}

/* SPEC.md section 3: type, flags, reserved, stream, length, offset. */
static void write_header(uint8_t *header, uint32_t stream, size_t length, uint64_t offset)
{
    memset(header, 0, FRAME);
    header[0] = FRAME_DATA;
    put(header + 4, stream, 4);
    put(header + 8, length, 4);
    put(header + 12, offset, 8);
}

/* Read from a hypervisor. Return 0, or why nothing was read. Passed descriptors are an error: EOPNOTSUPP. */
static int read_source(int source, uint8_t *memory, size_t room, size_t *count, int *error)
{
    struct iovec part = {memory, room};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t got;

    do
        got = recvmsg(source, &message, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got == 0)
        return SOURCE_ENDED;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return SOURCE_EMPTY;
    if (got < 0 || message.msg_flags & MSG_CTRUNC) {
        *error = got < 0 ? errno : EOPNOTSUPP;
        return SOURCE_FAILED;
    }
    *count = (size_t)got;
    return 0;
}

/* Read at most a batch into the room, frame it and seal it into the empty buffer. Return 0, or why not. */
static int carry_batch(struct direction *direction, struct buffer *buffer, int source, uint32_t stream, uint64_t offset,
                       uint8_t *room, size_t size, struct carried *carried)
{
    uint8_t header[FRAME];
    struct piece pieces[2] = {{header, FRAME}, {room, 0}};
    struct cursor from = {pieces, pieces + 2, 0};
    int64_t sealed;
    int stop;

    if (direction->failed || direction->limit - direction->number < BATCH / RECORD + 1)
        return direction->failed ? direction->failed : SPENT; /* a hypervisor's bytes can be read only once */
    stop = read_source(source, room, size < BATCH ? size : BATCH, &pieces[1].size, &carried->error);
    if (stop != 0)
        return stop;
    write_header(header, stream, pieces[1].size, offset);
    carried->read += pieces[1].size;
    sealed = seal_records(direction, DATA, &from, FRAME + pieces[1].size, buffer->memory, BATCH_SEALED);
    if (sealed < 0)
        return (int)sealed;
    buffer->end = (size_t)sealed;
    buffer->content = FRAME + pieces[1].size;
    return 0;
}

/* Send the pending bytes, then DATA frames of data from `source`, which is kept in the rooms, until these are full,
 * the source has no more, or the socket is full. All that was read is sealed, except after CIPHER, which makes the
 * key unusable. */
int mt_carry(struct direction *direction, struct buffer *buffer, int fd, int source, uint32_t stream, uint64_t offset,
             const struct room *rooms, size_t count, struct carried *carried)
{
    size_t used = 0; /* of the first room */
    int stop;

    *carried = (struct carried){0};
    if (!direction->aead.sealing)
        return MISUSE;
    if (!buffer_enter(direction, buffer))
        return BUSY;
    stop = buffer_flush(buffer, fd, 0, &carried->sent);
    while (stop == 0) {
        size_t before = carried->read;

        for (; count > 0 && used == rooms->size; count--, rooms++)
            used = 0;
        if (count == 0) {
            stop = BUDGET;
            break;
        }
        stop = carry_batch(direction, buffer, source, stream, offset + before, rooms->data + used, rooms->size - used,
                           carried);
        used += carried->read - before;
        if (stop == 0)
            stop = buffer_flush(buffer, fd, 0, &carried->sent);
    }
    carried->sent.unsent = buffer->end - buffer->start;
    buffer_leave(direction, buffer);
    return stop;
}

/* Return whether a frame begins here that continues one of the streams at its offset; that becomes the current one. */
static int take_header(const uint8_t *plain, size_t size, struct sink *sinks, size_t count, size_t *current)
{
    static const uint8_t begins[4] = {FRAME_DATA};
    uint64_t stream, length, offset;

    if (size < FRAME || memcmp(plain, begins, sizeof begins) != 0)
        return 0;
    stream = get(plain + 4, 4);
    length = get(plain + 8, 4);
    offset = get(plain + 12, 8);
    for (size_t i = 0; i < count; i++) {
        struct sink *sink = sinks + i;

        if (sink->stream == stream && sink->offset == offset && length > 0 && length <= FRAME_MOST &&
            length <= sink->limit - sink->offset) {
            sink->left = (size_t)length;
            *current = i;
            return 1;
        }
    }
    return 0;
}

/* Write payload to the target; return whether it accepted all. */
static int write_target(struct sink *sink, const uint8_t *payload, size_t size)
{
    ssize_t count;

    do
        count = send(sink->target, payload, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (count < 0 && errno == EINTR);
    if (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
        sink->error = errno;
        return 0;
    }
    if (count < 0)
        count = 0;
    sink->left -= (size_t)count;
    sink->offset += (uint64_t)count;
    sink->passed += (size_t)count;
    sink->full = (size_t)count < size;
    return !sink->full;
}

/* Pass on payload of the streams at the beginning of `plain`; return how many bytes of it were consumed. */
static size_t hand_on(const uint8_t *plain, size_t size, struct sink *sinks, size_t count, struct passed *passed)
{
    size_t at = 0;

    while (at < size) {
        struct sink *sink = sinks + passed->current;
        size_t part = size - at < sink->left ? size - at : sink->left, before = sink->passed;
        int whole;

        if (part == 0) {
            if (passed->frames == MOST_FRAMES || !take_header(plain + at, size - at, sinks, count, &passed->current))
                return at;
            passed->frames++;
            at += FRAME;
            continue;
        }
        whole = write_target(sink, plain + at, part);
        at += sink->passed - before;
        if (!whole)
            return at;
    }
    return at;
}

/* Open one batch of the pending bytes, and pass it on. Return as mt_receive, and BUDGET if data is left over. */
static int pass_batch(struct direction *direction, struct buffer *buffer, uint8_t *out, size_t room, struct sink *sinks,
                      size_t count, struct passed *passed)
{
    struct opened batch = {0};
    int stop = open_records(direction, buffer->memory + buffer->start, buffer->end - buffer->start, out, room, &batch);

    buffer->start += batch.consumed;
    passed->start = hand_on(out, batch.filled, sinks, count, passed);
    passed->opened.filled = batch.filled;
    passed->opened.content = batch.content;
    passed->opened.type = batch.type;
    passed->opened.records += batch.records;
    if (stop == CONTROL || stop < 0)
        return stop;
    return passed->start < batch.filled || stop == BUDGET ? BUDGET : stop;
}

/* Return whether the sinks are valid: only the first may be within a frame. */
static int are_sinks(const struct sink *sinks, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (sinks[i].offset > sinks[i].limit || sinks[i].left > (i == 0 ? sinks[i].limit - sinks[i].offset : 0))
            return 0;
    return count > 0;
}

/* As mt_receive, until `most` bytes were received; but payload that continues a stream at its offset is written to
 * its target, as far as that accepts it. Other data is left in `out` from `start` to `filled`. The first sink is
 * that of the frame in progress, or of the last one. */
int mt_pass(struct direction *direction, struct buffer *buffer, int fd, uint8_t *out, size_t room, size_t most,
            struct sink *sinks, size_t count, struct passed *passed)
{
    int stop;

    *passed = (struct passed){0};
    if (direction->aead.sealing || !are_sinks(sinks, count))
        return MISUSE;
    if (room > BATCH + RECORD + EXPANSION)
        room = BATCH + RECORD + EXPANSION;
    if (!buffer_enter(direction, buffer))
        return BUSY;
    do {
        stop = pass_batch(direction, buffer, out, room, sinks, count, passed);
        if (stop == ROOM_USED || stop == INPUT_USED) {
            if (passed->opened.received >= most || passed->opened.records >= MOST_RECORDS + most / RECORD)
                stop = BUDGET;
            else
                stop = stop == ROOM_USED ? 0 : buffer_fill(buffer, fd, &passed->opened);
        }
    } while (stop == 0);
    buffer_leave(direction, buffer);
    return stop;
}
