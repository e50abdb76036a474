package main

import (
	"context"
	"errors"
	"time"

	"ip6d/addr"
	"ip6d/integration/bench/report"
	"ip6d/nat"
)

// flipTime is the key of how long the switchover's map write takes, call to return, in microseconds: the 99th percentile.
const flipTime = "flip_us"

func (b *bench) flip(ctx context.Context) (err error) {
	var c closers
	defer func() { err = errors.Join(err, c.close()) }()
	d, _, err := openDatapath(1, nat.Sizes{}, &c)
	if err != nil {
		return err
	}
	const machines = 4096
	return b.interleave(ctx, []turn{{flipTime, func(ctx context.Context) (float64, error) {
		var took []float64
		for i := range machines {
			id := addr.ID{Cell: cell, Machine: addr.Machine(i)}
			if err := d.PutMachine(nat.Machine{ID: id, Network: network, Epoch: 1, State: nat.Delivering, Port: portOfNone}); err != nil {
				return 0, err
			}
			start := time.Now()
			if err := d.Flip(id, 2, 1); err != nil {
				return 0, err
			}
			took = append(took, float64(time.Since(start).Nanoseconds())/1e3)
		}
		return report.Percentile(took, 0.99), ctx.Err()
	}}})
}
