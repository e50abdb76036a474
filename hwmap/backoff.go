package hwmap

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

// How long a task waits before it tries again what a store or a peer failed: at first, and at most.
const (
	retryPause    = time.Second
	maxRetryPause = 8 * time.Second
)

// backoff is how a task bears what fails again and again: it asks ever less often, and tells a trouble that lasts once. The
// zero value is for one that has not failed.
type backoff struct {
	wait time.Duration
	said string
}

// pause waits after a failure, the longer the more there have been. It returns ctx's error.
func (b *backoff) pause(ctx context.Context) error { return b.pauseOr(ctx, nil) }

// pauseOr is pause that ends when something comes from enough, or it is closed.
func (b *backoff) pauseOr(ctx context.Context, enough <-chan struct{}) error {
	b.wait = min(max(retryPause, 2*b.wait), maxRetryPause)
	return pauseOr(ctx, b.wait, enough)
}

// tell logs err, if that is news.
func (b *backoff) tell(log *slog.Logger, message string, err error) {
	if err.Error() != b.said {
		log.Warn(message, "error", err)
		b.said = err.Error()
	}
}

// over says that it did not fail.
func (b *backoff) over() { *b = backoff{} }

// pause waits for d and up to half of it more, so that hosts do not return to a store all at once. It returns ctx's error.
func pause(ctx context.Context, d time.Duration) error { return pauseOr(ctx, d, nil) }

// pauseOr is pause that ends when something comes from enough, or it is closed.
func pauseOr(ctx context.Context, d time.Duration, enough <-chan struct{}) error {
	t := time.NewTimer(d + rand.N(d/2))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
	case <-enough:
	}
	return nil
}
