package main

import (
	"context"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

// eventsTask takes in what the datapath sees: drops go to those who monitor them, and hosts that send here what is not here
// are told, and so is the map of machines that it waits for. It waits for nobody.
type eventsTask struct {
	datapath *nat.Datapath
	plan     addr.Plan
	feed     *nat.Feed
	hwmap    *hwmap.Map
}

func (*eventsTask) String() string { return "events of the datapath" }

func (*eventsTask) Ready() <-chan struct{} { return readyAtOnce() }

// Run reads events until ctx ends.
func (t *eventsTask) Run(ctx context.Context) error { return t.datapath.ReadEvents(ctx, t.take) }

func (t *eventsTask) take(e nat.Event) {
	switch e.Kind {
	case nat.EventDrop:
		t.feed.Publish(e)
	case nat.EventAstray:
		r, err := t.plan.RoutingFrom(e.Destination)
		if err != nil {
			return // nothing but a routing address is for a machine
		}
		if s, _, err := t.plan.Decode(r); err == nil {
			t.hwmap.Astray(e.Host, s.ID())
		}
	case nat.EventSent:
		if !e.Sender.IsZero() {
			t.hwmap.Sent(e.Sender.ID())
		}
	}
}
