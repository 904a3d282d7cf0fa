/* SPDX-License-Identifier: Apache-2.0 */
#include "password.h"

#include <crypt.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/queue.h>

#define METHOD "$y$"
#define STACK_SIZE (512u * 1024u)

/* The hash of nothing that anybody knows: whoever is not there takes as long as whoever is. */
#define NOBODY "$y$j9T$VJPNPC/8X0DlqibQIHSrL0$XOGcdNr3t9nuaiCPpvq4MH1fNx4kAZq96dzUdwYKUKD"

unsigned long password_cost;

struct PasswordJob {
    TAILQ_ENTRY(PasswordJob) jobs;
    PasswordQueue *queue;
    char password[PASSWORD_MAX + 1];
    char setting[CRYPT_OUTPUT_SIZE]; /* to make a hash with, or the hash to compare with */
    struct crypt_data data;
    uint64_t key;
    bool makes, known, nobody;
    const char *hash; /* in `data`; NULL: failed */
    PasswordDone f;   /* NULL: nobody waits any more */
    void *userdata;
};

struct PasswordQueue {
    TAILQ_HEAD(, PasswordJob) jobs;
    PasswordJob *running;
    pthread_t thread;
    size_t n;
    int fd;
    sd_event_source *source;
};

bool password_is_acceptable(const char *password)
{
    size_t n = strlen(password);

    return n >= PASSWORD_MIN && n <= PASSWORD_MAX;
}

static int new_setting(char ret[CRYPT_OUTPUT_SIZE])
{
    return crypt_gensalt_rn(METHOD, password_cost, NULL, 0, ret, CRYPT_OUTPUT_SIZE) ? 0 : -EIO;
}

static void job_init(PasswordJob *j, const char *password, const char *setting)
{
    snprintf(j->password, sizeof j->password, "%s", password);
    snprintf(j->setting, sizeof j->setting, "%s", setting ? setting : NOBODY);
    j->nobody = !setting;
}

static void job_work(PasswordJob *j)
{
    const char *hash = crypt_rn(j->password, j->setting, &j->data, (int)sizeof j->data);

    j->hash = hash && *hash != '*' ? hash : NULL;
}

static bool job_is_right(const PasswordJob *j)
{
    size_t n = strlen(j->setting);

    return j->hash && !j->nobody && strlen(j->hash) == n &&
           CRYPTO_memcmp(j->hash, j->setting, n) == 0;
}

static void job_free(PasswordJob *j)
{
    if (!j)
        return;
    explicit_bzero(j, sizeof *j);
    free(j);
}
HYBUS_DEFINE_CLEANUP(PasswordJob, job_free)

/* Whoever brings more than is read would be compared with the beginning only. */
static PasswordJob *job_new(const char *password)
{
    return strlen(password) <= PASSWORD_MAX ? calloc(1, sizeof(PasswordJob)) : NULL;
}

int password_hash(const char *password, char **ret)
{
    _cleanup_(job_freep) PasswordJob *j = job_new(password);
    char setting[CRYPT_OUTPUT_SIZE];
    int r = j ? new_setting(setting) : -EINVAL;

    if (r < 0)
        return r;
    job_init(j, password, setting);
    job_work(j);
    if (!j->hash)
        return -EIO;
    *ret = strdup(j->hash);
    return *ret ? 0 : -ENOMEM;
}

bool password_is(const char *password, const char *hash)
{
    _cleanup_(job_freep) PasswordJob *j = job_new(password);

    if (!j)
        return false;
    job_init(j, password, hash);
    job_work(j);
    return job_is_right(j);
}

/* --- the queue ------------------------------------------------------------------------------- */

/* No memory of ours is allocated or freed here: an arena of its own would stay for ever. */
static void *work(void *userdata)
{
    PasswordQueue *q = userdata;
    const uint64_t one = 1;

    job_work(q->running);
    (void)!write(q->fd, &one, sizeof one);
    return NULL;
}

/* Signals are for the loop. */
static int start_thread(PasswordQueue *q)
{
    sigset_t all, old;
    pthread_attr_t attributes;
    int r;

    if (pthread_attr_init(&attributes) != 0)
        return -ENOMEM;
    (void)pthread_attr_setstacksize(&attributes, STACK_SIZE);
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(&q->thread, &attributes, work, q);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    return -r;
}

static void finish(PasswordQueue *q, PasswordJob *j)
{
    q->n--;
    if (j->f)
        j->f(j->makes ? j->hash != NULL : job_is_right(j), j->makes ? j->hash : NULL, j->userdata);
    job_free(j);
}

static void start_next(PasswordQueue *q)
{
    while (!q->running && !TAILQ_EMPTY(&q->jobs)) {
        PasswordJob *j = TAILQ_FIRST(&q->jobs);

        TAILQ_REMOVE(&q->jobs, j, jobs);
        q->running = j;
        if (start_thread(q) < 0) {
            q->running = NULL;
            finish(q, j); /* as if it were wrong */
        }
    }
}

static int on_done(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    PasswordQueue *q = userdata;
    PasswordJob *j = q->running;
    uint64_t n;

    if (read(fd, &n, sizeof n) != sizeof n)
        return 0;
    if (j) { /* else: the first of all, see enqueue() */
        (void)pthread_join(q->thread, NULL);
        q->running = NULL;
        finish(q, j);
    }
    start_next(q);
    return 0;
}

int password_queue_new(sd_event *event, PasswordQueue **ret)
{
    _cleanup_(password_queue_freep) PasswordQueue *q = calloc(1, sizeof *q);
    int r;

    if (!q)
        return -ENOMEM;
    TAILQ_INIT(&q->jobs);
    q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->fd < 0)
        return -errno;
    r = sd_event_add_io(event, &q->source, q->fd, EPOLLIN, on_done, q);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(q);
    return 0;
}

void password_queue_free(PasswordQueue *q)
{
    PasswordJob *j;

    if (!q)
        return;
    if (q->running) {
        (void)pthread_join(q->thread, NULL);
        job_free(q->running);
    }
    while ((j = TAILQ_FIRST(&q->jobs))) {
        TAILQ_REMOVE(&q->jobs, j, jobs);
        job_free(j);
    }
    sd_event_source_disable_unref(q->source);
    safe_close(q->fd);
    free(q);
}

static bool has_key(const PasswordQueue *q, uint64_t key)
{
    const PasswordJob *j;

    if (q->running && q->running->key == key)
        return true;
    TAILQ_FOREACH (j, &q->jobs, jobs)
        if (j->key == key)
            return true;
    return false;
}

/* Known ones before strangers, each in their order. */
static void put(PasswordQueue *q, PasswordJob *new)
{
    PasswordJob *j;

    if (new->known)
        TAILQ_FOREACH (j, &q->jobs, jobs)
            if (!j->known) {
                TAILQ_INSERT_BEFORE(j, new, jobs);
                return;
            }
    TAILQ_INSERT_TAIL(&q->jobs, new, jobs);
}

static int enqueue(PasswordQueue *q, PasswordJob *j, PasswordDone f, void *userdata, PasswordJob **ret)
{
    const uint64_t one = 1;
    bool idle = q->n == 0;

    j->queue = q;
    j->f = f;
    j->userdata = userdata;
    put(q, j);
    q->n++;
    if (ret)
        *ret = j;
    /* From the loop, so that nobody is called back from inside even if no thread can be made. */
    return idle && write(q->fd, &one, sizeof one) < 0 ? -errno : 0;
}

int password_queue_check(PasswordQueue *q, const char *password, const char *hash, uint64_t key,
                         bool known, PasswordDone f, void *userdata, PasswordJob **ret)
{
    PasswordJob *j;

    if (key && has_key(q, key))
        return -EBUSY;
    if (q->n >= (known ? PASSWORD_KNOWN_MAX : PASSWORD_WAITING_MAX))
        return -ENOBUFS;
    j = job_new(password);
    if (!j)
        return strlen(password) > PASSWORD_MAX ? -EINVAL : -ENOMEM;
    job_init(j, password, hash);
    j->key = key;
    j->known = known;
    return enqueue(q, j, f, userdata, ret);
}

int password_queue_hash(PasswordQueue *q, const char *password, PasswordDone f, void *userdata,
                        PasswordJob **ret)
{
    char setting[CRYPT_OUTPUT_SIZE];
    PasswordJob *j;
    int r = new_setting(setting);

    if (r < 0)
        return r;
    if (q->n >= PASSWORD_KNOWN_MAX)
        return -ENOBUFS;
    j = job_new(password);
    if (!j)
        return strlen(password) > PASSWORD_MAX ? -EINVAL : -ENOMEM;
    job_init(j, password, setting);
    j->makes = j->known = true;
    return enqueue(q, j, f, userdata, ret);
}

void password_job_cancel(PasswordJob *job)
{
    if (job)
        job->f = NULL; /* the one at work cannot be stopped, and soon ends */
}
