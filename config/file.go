package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// File is a configuration as written. Values are text, so that Check can say what is wrong with one in the same words
// whether it came from the file or from a flag. An empty value is one that was not given.
type File struct {
	Host       string   `yaml:"host,omitempty"`
	Name       string   `yaml:"name,omitempty"`
	Identity   string   `yaml:"identity,omitempty"`
	Cell       string   `yaml:"cell,omitempty"`
	Prefixes   Prefixes `yaml:"prefixes,omitempty"`
	StateDir   string   `yaml:"state_dir,omitempty"`
	Socket     string   `yaml:"socket,omitempty"`
	API        API      `yaml:"api,omitempty"`
	BPFDir     string   `yaml:"bpf_dir,omitempty"`
	Underlay   Underlay `yaml:"underlay,omitempty"`
	Store      Store    `yaml:"store,omitempty"`
	Sizes      Sizes    `yaml:"sizes,omitempty"`
	Quarantine string   `yaml:"quarantine,omitempty"`
	Database   Database `yaml:"database,omitempty"`
	Audit      string   `yaml:"audit,omitempty"`
	Metrics    string   `yaml:"metrics,omitempty"`
	LogLevel   string   `yaml:"log_level,omitempty"`
}

// Prefixes are the two prefixes of the fleet.
type Prefixes struct {
	Stable  string `yaml:"stable,omitempty"`
	Routing string `yaml:"routing,omitempty"`
}

// API is where the API is offered to other computers.
type API struct {
	Address     string `yaml:"address,omitempty"`
	Certificate string `yaml:"certificate,omitempty"`
	Key         string `yaml:"key,omitempty"`
	ClientCA    string `yaml:"client_ca,omitempty"`
}

// Underlay is how this host reaches the others.
type Underlay struct {
	Type      string `yaml:"type,omitempty"`
	Device    string `yaml:"device,omitempty"`
	Address   string `yaml:"address,omitempty"`
	Endpoint  string `yaml:"endpoint,omitempty"`
	Port      string `yaml:"port,omitempty"`
	VerifyMAC string `yaml:"verify_mac,omitempty"`
	MTU       string `yaml:"mtu,omitempty"`
}

// Store is where the fleet's map is kept.
type Store struct {
	Endpoints []string `yaml:"endpoints,omitempty"`
	Cluster   string   `yaml:"cluster,omitempty"`

	CA          string `yaml:"ca,omitempty"`
	Certificate string `yaml:"certificate,omitempty"`
	Key         string `yaml:"key,omitempty"`
}

// Sizes are the numbers of entries that the kernel's maps have room for.
type Sizes struct {
	Machines string `yaml:"machines,omitempty"`
	Blocks   string `yaml:"blocks,omitempty"`
	Hosts    string `yaml:"hosts,omitempty"`
}

// Database is about the databases in StateDir.
type Database struct {
	Slow string `yaml:"slow,omitempty"`
}

// ReadFile reads the YAML file at path. Its errors name the path, and the line where there is one. They wrap
// ErrInvalid, or are what the operating system said.
func ReadFile(path string) (File, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return File{}, fmt.Errorf("read configuration: %w", err)
	}
	f, err := Parse(text)
	if err != nil {
		return File{}, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return f, nil
}

// Parse reads YAML. A field that is not one of File's is an error, as is a second document. The error wraps ErrInvalid.
func Parse(text []byte) (File, error) {
	var f File
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	err := d.Decode(&f)
	if errors.Is(err, io.EOF) {
		return File{}, nil // nothing but comments
	}
	if err != nil {
		return File{}, plain(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return File{}, fmt.Errorf("%w: there is more after the first document; remove it and its ---", ErrInvalid)
	}
	return f, nil
}

var unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)

// plain takes the Go out of what the YAML decoder says: whoever wrote the file does not know our types.
func plain(err error) error {
	var wrong *yaml.TypeError
	if !errors.As(err, &wrong) {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var errs []error
	for _, e := range wrong.Errors {
		errs = append(errs, fmt.Errorf("%w: %s", ErrInvalid, unknownField.ReplaceAllString(e, "unknown field $1")))
	}
	return errors.Join(errs...)
}
