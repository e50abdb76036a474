package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ip6d/doctor"
	"ip6d/integration/lab"
)

// examine runs `ip6d doctor` on a host, and returns what it finds wrong.
func (f *fleet) examine(h *lab.Host) (wrong, all []doctor.Finding) {
	f.t.Helper()
	cmd := exec.Command(setup.ip6d, "doctor", "-o", "json", "--config", filepath.Join(filepath.Dir(h.Socket()), "ip6d.yaml"))
	var out []byte
	f.must(h.Do(func() (err error) {
		out, err = cmd.Output()
		if _, ok := errors.AsType[*exec.ExitError](err); ok { // warnings or errors, which are in the answer
			return nil
		}
		return err
	}))
	f.must(json.Unmarshal(out, &all))
	for _, finding := range all {
		switch finding.Check {
		case "clock", "disk", "durability": // of this computer; a lab's state is in memory
			continue
		}
		if finding.Severity == doctor.Warning || finding.Severity == doctor.Error {
			wrong = append(wrong, finding)
		}
	}
	return wrong, all
}

func TestTheDoctorReachesEveryHostAndFindsNothingWrong(t *testing.T) {
	for name, start := range map[string]func(*testing.T, int) *fleet{"device": newFleet, "mesh": newMesh} {
		t.Run(name, func(t *testing.T) {
			f := start(t, 3)
			f.eventually("all hosts are well", func() error { // a mesh begins with the first packet
				wrong, all := f.examine(f.Hosts()[0])
				if wrong != nil {
					return fmt.Errorf("wrong: %+v", wrong)
				}
				reached := 0
				for _, finding := range all {
					if strings.HasPrefix(finding.Check, "host ") && strings.Contains(finding.Value, "is reached, with packets of") {
						reached++
					}
				}
				if reached != 2 {
					return fmt.Errorf("%d of 2 hosts are reached: %+v", reached, all)
				}
				return nil
			})
			f.must(f.Hosts()[1].KillDaemon())
			wrong, _ := f.examine(f.Hosts()[0])
			if wrong != nil {
				t.Errorf("with the daemon of another host down, packets flow, but: %+v", wrong)
			}
		})
	}
}
