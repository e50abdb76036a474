package nat

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// usesPinned checks that all maps of a program are the pinned ones.
func usesPinned(t *testing.T, id ebpf.ProgramID, pinned map[string]ebpf.MapID) {
	t.Helper()
	used, _ := programInfo(t, id).MapIDs()
	others := 0 // its settings
	for _, id := range used {
		if !slices.Contains(slices.Collect(maps.Values(pinned)), id) {
			others++
		}
	}
	if len(used) < 3 || others != 1 {
		t.Errorf("program %d uses maps %v, pinned are %v", id, used, pinned)
	}
}

func programInfo(t *testing.T, id ebpf.ProgramID) *ebpf.ProgramInfo {
	t.Helper()
	p := must(ebpf.NewProgramFromID(id))
	defer p.Close()
	return must(p.Info())
}

func TestUpgradeLosesNothing(t *testing.T) {
	eachWay(t, func(t *testing.T, by way) {
		one, two, arrived, stop := fleetWithStream(t, by)
		tags := make(map[string]string) // by version
		size := smallSizes.Machines
		for round := range 3 {
			for _, version := range []string{"older", "newer"} {
				for _, h := range []*fleetHost{one, two} {
					before, links := attached(t, h.underlay), pinnedLinks(t, h.options)
					ok(t, h.Close())
					size++
					h.options.Sizes = Sizes{Machines: size, Blocks: size, Hosts: size}
					if version == "older" {
						h.Datapath = h.openSpec(h.options, olderSpec(t))
					} else {
						h.Datapath = h.open(h.options)
					}
					progress(t, arrived, 100)
					if now := pinnedLinks(t, h.options); !maps.Equal(now, links) {
						t.Errorf("round %d, %s: links are %v, were %v", round, version, now, links)
					}
					now := attached(t, h.underlay)
					if len(now) != 1 || now[0].by != before[0].by {
						t.Fatalf("round %d, %s: attached is %v, was %v", round, version, now, before)
					}
					usesPinned(t, now[0].program, pinnedMaps(t, h.options))
					if tag := programInfo(t, now[0].program).Tag; tags[version] == "" {
						tags[version] = tag
					} else if tags[version] != tag {
						t.Errorf("round %d, %s: program %s is attached, want %s", round, version, tag, tags[version])
					}
				}
			}
		}
		stop()
		if tags["older"] == tags["newer"] || len(tags) != 2 {
			t.Errorf("the attached programs did not change: %v", tags)
		}
	})
}

// pinnedLinks returns the ids of the pinned links by name; filters have none.
func pinnedLinks(t *testing.T, o Options) map[string]link.ID {
	t.Helper()
	ids := make(map[string]link.ID)
	for _, pin := range must(os.ReadDir(filepath.Join(o.PinDir, linksDir))) {
		l := must(link.LoadPinnedLink(filepath.Join(o.PinDir, linksDir, pin.Name()), nil))
		ids[pin.Name()] = must(l.Info()).ID
		ok(t, l.Close())
	}
	return ids
}
