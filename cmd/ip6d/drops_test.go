package main

import (
	"encoding/json"
	"strings"
	"testing"

	ip6dv1 "ip6d/api/ip6d/v1"
)

// countedDrops is the answer to GetDrops while so many packets were dropped.
func countedDrops(loops uint64) *ip6dv1.GetDropsResponse {
	return &ip6dv1.GetDropsResponse{Drops: []*ip6dv1.Drop{
		{Reason: "arp", Meaning: "the machine sent ARP"},
		{Reason: "loop", Packets: loops, Meaning: "it came from there"},
	}}
}

func TestDropsShowsTotalsRatesAndMeanings(t *testing.T) {
	s := &stub{drops: []*ip6dv1.GetDropsResponse{countedDrops(1000), countedDrops(3000)}}
	got := runLine(t, "", "--socket", startStub(t, s), "-o", "json", "drops", "--interval", "100ms", "--all")
	var answers []dropAnswer
	if err := json.Unmarshal([]byte(got.stdout), &answers); err != nil || len(answers) != 2 {
		t.Fatalf("%+v: %v", got, err)
	}
	quiet, loop := answers[0], answers[1]
	if quiet.Reason != "arp" || quiet.Packets != 0 || *quiet.Rate != 0 {
		t.Errorf("what did not occur is %+v", quiet)
	}
	// 2000 in 100 ms, or in more on a busy computer
	if loop.Reason != "loop" || loop.Packets != 3000 || *loop.Rate <= 0 || *loop.Rate > 20_000 || loop.Meaning != "it came from there" {
		t.Errorf("what occurred is %+v, a rate of %v", loop, *loop.Rate)
	}
}

func TestDropsInWordsShowsWhatOccurred(t *testing.T) {
	socket := startStub(t, &stub{drops: []*ip6dv1.GetDropsResponse{countedDrops(7)}})
	const heading = "REASON  PACKETS  PER SECOND  MEANING\n"
	for line, want := range map[string]string{
		"drops --interval 0": heading + "loop    7        -           it came from there\n",
		"drops --interval 0 --all": heading + "arp     0        -           the machine sent ARP\n" +
			"loop    7        -           it came from there\n",
		"drops --interval 1ms": heading + "loop    7        0.0         it came from there\n",
	} {
		got := runLine(t, "", append([]string{"--socket", socket}, strings.Fields(line)...)...)
		if got.status != exitOK || got.stdout != want {
			t.Errorf("%s: %+v, want\n%s", line, got, want)
		}
	}
}

func TestCountersThatBeganAgainGiveNoRates(t *testing.T) {
	s := &stub{drops: []*ip6dv1.GetDropsResponse{countedDrops(7), countedDrops(1)}}
	got := runLine(t, "", "--socket", startStub(t, s), "drops", "--interval", "1ms")
	if got.status != exitError || !strings.Contains(got.stderr, "began again") {
		t.Errorf("%+v", got)
	}
}
