/* A five-point stencil on two grids in turn: each sweep writes one grid from end to end. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { N = 1536 };

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 60;
    double *from = calloc(N * N, sizeof *from), *to = calloc(N * N, sizeof *to);
    if (!from || !to)
        return 1;
    for (int i = 0; i < N; i++)
        from[i] = to[i] = 100.0;
    time_t end = time(NULL) + (time_t)seconds;
    long sweeps = 0;
    while (time(NULL) < end) {
        for (int y = 1; y < N - 1; y++) {
            for (int x = 1; x < N - 1; x++) {
                double *p = from + y * N + x;
                to[y * N + x] = 0.25 * (p[-1] + p[1] + p[-N] + p[N]);
            }
            /* A step takes as long as if there were more to compute. */
            if (y % 32 == 0)
                nanosleep(&(struct timespec){ 0, 4000000 }, NULL);
        }
        double *swap = from;
        from = to;
        to = swap;
        sweeps++;
    }
    printf("%ld sweeps, %f\n", sweeps, from[N * N / 2]);
    return 0;
}
