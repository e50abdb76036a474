package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
)

// Who follows the events of a daemon that is killed again and again is told all that was answered, in order and once.
func TestFollowedEventsAreWhatWasAnsweredAcrossKills(t *testing.T) {
	h := newTestHost(t)
	h.start()
	client := api.NewClient(h.socket())
	defer client.Close()
	var mu sync.Mutex // guards told
	var told []string
	ctx, end := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer end()
	running.Go(func() {
		err := client.FollowEvents(ctx, api.FollowOptions{}, func(events []*ip6dv1.Event, _ string) error {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range events {
				if e.Host == 0 && (e.Kind == "created" || e.Kind == "destroyed") {
					told = append(told, e.Kind+" "+e.Name)
				}
			}
			return nil
		})
		if ctx.Err() == nil {
			t.Errorf("following ended: %v", err)
		}
	})

	// Each caller makes and destroys machines of its own, and knows what was answered; a call that failed may have been done.
	const callers = 4
	answered := make([][]string, callers)
	unknown := make([]map[string]bool, callers)
	stop := make(chan struct{})
	var calling sync.WaitGroup
	for i := range callers {
		unknown[i] = make(map[string]bool)
		calling.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("web%d-%d", i, n)
				_, err := client.Machines.CreateMachine(t.Context(), connect.NewRequest(&ip6dv1.CreateMachineRequest{Name: name, Network: 7}))
				if err != nil {
					unknown[i]["created "+name] = true
					continue
				}
				answered[i] = append(answered[i], "created "+name)
				if _, err = client.Machines.DestroyMachine(t.Context(), connect.NewRequest(&ip6dv1.DestroyMachineRequest{Name: name})); err != nil {
					unknown[i]["destroyed "+name] = true
					continue
				}
				answered[i] = append(answered[i], "destroyed "+name)
			}
		})
	}
	seen := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(told)
	}
	for range 10 {
		before := seen()
		h.eventually("events of this daemon are told", func() bool { return seen() > before+10 })
		h.kill()
		h.start()
	}
	close(stop)
	calling.Wait()
	_, err := client.Machines.CreateMachine(t.Context(), connect.NewRequest(&ip6dv1.CreateMachineRequest{Name: "last", Network: 7}))
	if err != nil {
		t.Fatal(err)
	}
	h.eventually("the last event is told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Contains(told, "created last")
	})
	mu.Lock()
	defer mu.Unlock()
	times := make(map[string]int)
	for _, what := range told {
		if times[what]++; times[what] > 1 {
			t.Errorf("%s was told %d times", what, times[what])
		}
	}
	delete(times, "created last")
	for i := range callers {
		at := 0
		for _, what := range answered[i] {
			next := slices.Index(told[at:], what)
			if next < 0 {
				t.Fatalf("%s was answered, and is not told after what was answered before it", what)
			}
			at += next
			delete(times, what)
		}
		for what := range unknown[i] {
			delete(times, what)
		}
	}
	for what := range times {
		t.Errorf("%s was told, and nobody asked for it", what)
	}
}
