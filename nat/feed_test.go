package nat

import (
	"testing"
)

func all(Event) bool { return true }

func TestASlowFollowerMissesEventsAndHoldsUpNobody(t *testing.T) {
	var feed Feed
	slow, quick := feed.Follow(2, all), feed.Follow(100, all)
	defer slow.Close()
	defer quick.Close()
	for i := range 10 {
		feed.Publish(Event{Length: i})
	}
	if n, missed := len(slow.Events()), slow.Missed(); n != 2 || missed != 8 {
		t.Errorf("of ten events two find room with the slow one: it has %d and misses %d", n, missed)
	}
	if n := slow.Missed(); n != 0 {
		t.Errorf("asked again, it has missed %d more", n)
	}
	for i := range 10 {
		if e := <-quick.Events(); e.Length != i {
			t.Errorf("event %d comes as number %d", e.Length, i)
		}
	}
	if n := quick.Missed(); n != 0 {
		t.Errorf("the quick one misses %d", n)
	}
}

func TestAFollowerGetsWhatItWantsWhileItFollows(t *testing.T) {
	var feed Feed
	feed.Publish(Event{Length: 1}) // before there is anybody
	w := feed.Follow(1, func(e Event) bool { return e.Reason == "loop" })
	feed.Publish(Event{Reason: "not_here"}) // takes no room
	feed.Publish(Event{Reason: "loop"})
	if e := <-w.Events(); e.Reason != "loop" || w.Missed() != 0 {
		t.Errorf("it got %+v", e)
	}
	w.Close()
	feed.Publish(Event{Reason: "loop"})
	if len(w.Events()) != 0 || w.Missed() != 0 {
		t.Error("it got an event after it had ended")
	}
}
