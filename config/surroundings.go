package config

import (
	"os"
	"strings"
)

// machineIDPath holds the id that systemd gave this installation; see machine-id(5).
const machineIDPath = "/etc/machine-id"

// OS is the Surroundings that the operating system tells of.
func OS() Surroundings {
	return Surroundings{
		Hostname: os.Hostname,
		MachineID: func() (string, error) {
			id, err := os.ReadFile(machineIDPath)
			return strings.TrimSpace(string(id)), err
		},
	}
}
