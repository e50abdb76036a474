package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

type addressVectors struct {
	Valid []struct {
		Kind    string `json:"kind"`
		Network uint32 `json:"network"`
		Cell    uint32 `json:"cell"`
		Machine uint32 `json:"machine"`
		Block   uint32 `json:"block"`
		Host    uint32 `json:"host"`
		Stable  string `json:"stable"`
		Routing string `json:"routing"`
	} `json:"valid"`
	Control []struct {
		Host    uint32 `json:"host"`
		Routing string `json:"routing"`
	} `json:"control"`
	Invalid []struct {
		Address string `json:"address"`
	} `json:"invalid"`
}

func readAddressVectors(t *testing.T) addressVectors {
	t.Helper()
	text, err := os.ReadFile("../../addr/testdata/addresses.json")
	if err != nil {
		t.Fatal(err)
	}
	var v addressVectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Valid) == 0 || len(v.Control) == 0 || len(v.Invalid) == 0 {
		t.Fatal("the vectors file lacks valid, control or invalid addresses")
	}
	return v
}

// object is a line of JSON, so that absent and zero differ.
type object = map[string]any

func decodeLines(t *testing.T, stdin string, args ...string) []object {
	t.Helper()
	got := runLine(t, stdin, append([]string{"addr", "decode", "-o", "json"}, args...)...)
	if got.status != exitOK || got.stderr != "" {
		t.Fatalf("status %d, stderr %q; want 0 and none", got.status, got.stderr)
	}
	var lines []object
	for line := range strings.Lines(got.stdout) {
		var o object
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("line %d is no JSON object: %v: %.200s", len(lines)+1, err, line)
		}
		lines = append(lines, o)
	}
	return lines
}

func TestDecodeSaysOfTheVectorsWhatTheySay(t *testing.T) {
	var input []string
	var want []object
	expect := func(address string, o object) {
		o["address"] = address
		input = append(input, address)
		want = append(want, o)
	}
	vectors := readAddressVectors(t)
	for _, v := range vectors.Valid {
		numbers := func(form string) object {
			return object{
				"form": form, "kind": v.Kind, "stable": v.Stable,
				"network": float64(v.Network), "cell": float64(v.Cell), "machine": float64(v.Machine), "block": float64(v.Block),
			}
		}
		stable, routing := numbers("stable"), numbers("routing")
		routing["host"] = float64(v.Host)
		if v.Kind == "endpoint" { // its address says the host in either form
			stable["host"] = float64(v.Host)
		}
		expect(v.Stable, stable)
		expect(v.Routing, routing)
	}
	for _, v := range vectors.Control {
		expect(v.Routing, object{"form": "routing", "kind": "control", "host": float64(v.Host)})
	}
	for _, v := range vectors.Invalid {
		expect(v.Address, object{"form": "invalid"})
	}

	for how, got := range map[string][]object{
		"on the input":                   decodeLines(t, strings.Join(input, "\n")+"\n", "-"),
		"on the input, as from Windows":  decodeLines(t, " "+strings.Join(input, " \t\r\n\t")+"\r\n", "-"),
		"on the input, without line end": decodeLines(t, strings.Join(input, "\n"), "-"),
		"as arguments":                   decodeLines(t, "", append([]string{"--"}, input...)...),
	} {
		if len(got) != len(want) {
			t.Errorf("%s: %d lines for %d addresses", how, len(got), len(want))
			continue
		}
		for i := range want {
			if why, ok := got[i]["error"].(string); (want[i]["form"] == "invalid") != (ok && why != "") {
				t.Errorf("%s: %q gives the error %q", how, input[i], why)
			}
			delete(got[i], "error")
			if !reflect.DeepEqual(got[i], want[i]) {
				t.Errorf("%s: %q gives\n%v, want\n%v", how, input[i], got[i], want[i])
			}
		}
	}
}

func TestDecodeWritesFieldsInTheirOrder(t *testing.T) {
	got := runLine(t, "", "addr", "decode", "-o", "json", "FDAB:0:7:0:63:0:101:FFFA", "fdab:0:7::7:fffa", "fdaa:0:63::101:2")
	want := `{"address":"FDAB:0:7:0:63:0:101:FFFA","form":"routing","kind":"machine","network":99,"cell":1,"machine":257,"block":1,"host":7,"stable":"fdaa:0:63:1::101:2"}
{"address":"fdab:0:7::7:fffa","form":"routing","kind":"endpoint","network":0,"cell":1,"machine":7,"block":0,"host":7,"stable":"fdaa::1:0:0:7:2"}
{"address":"fdaa:0:63::101:2","form":"invalid","error":"stable address fdaa:0:63::101:2: cell is 0, must be 1 to 65534"}
`
	if got.status != exitOK || got.stdout != want {
		t.Errorf("%+v, want\n%s", got, want)
	}
}

func TestDecodeReportsEmptyLinesAndRubbishAsInvalid(t *testing.T) {
	for _, c := range []struct{ name, input, address string }{
		{"empty line", "", ""},
		{"white space", " \t\r", ""},
		{"two addresses", "fdaa:0:63:1::101:2 fdaa:0:63:1::101:2", "fdaa:0:63:1::101:2 fdaa:0:63:1::101:2"},
		{"control characters", "\x00\x1b[31m<&>", "\x00\x1b[31m<&>"},
		{"not UTF-8", "\xff", "\ufffd"},
		{"long", strings.Repeat("a", 100_000), strings.Repeat("a", 100_000)},
		{"very long", strings.Repeat("a", 5*maxLine), strings.Repeat("a", maxLine)},
	} {
		got := decodeLines(t, c.input+"\nfdab:0:7::1\n", "-")
		if len(got) != 2 || got[0]["form"] != "invalid" || got[0]["address"] != c.address || got[0]["error"] == nil || len(got[0]) != 3 {
			t.Errorf("%s: %.300v, want one invalid address, and the next", c.name, got)
			continue
		}
		if got[1]["kind"] != "control" {
			t.Errorf("%s: the next address gives %v", c.name, got[1])
		}
	}
	if got := decodeLines(t, "", "-"); len(got) != 0 {
		t.Errorf("no input gives %v, want nothing", got)
	}
}

func TestDecodeAnswersEachLineBeforeTheNextIsSent(t *testing.T) {
	in, feed := io.Pipe()
	answers, out := io.Pipe()
	stderr := new(bytes.Buffer)
	status := make(chan int, 1)
	go func() {
		status <- run(t.Context(), []string{"addr", "decode", "-o", "json", "-"}, in, out, stderr)
		out.Close()
	}()
	// An answer that is held back would leave both sides waiting.
	stuck := time.AfterFunc(time.Minute, func() { answers.CloseWithError(os.ErrDeadlineExceeded); feed.Close() })
	defer stuck.Stop()

	read := bufio.NewReader(answers)
	// The first half of the next address is there already, which must not hold the answer back either.
	io.WriteString(feed, "fdab:0:7::1\nfdab:0:")
	if line, err := read.ReadString('\n'); err != nil || !strings.Contains(line, `"host":7`) {
		t.Fatalf("the first answer is %q, %v; want host 7", line, err)
	}
	io.WriteString(feed, "8::1\n")
	if line, err := read.ReadString('\n'); err != nil || !strings.Contains(line, `"host":8`) {
		t.Fatalf("the second answer is %q, %v; want host 8", line, err)
	}
	feed.Close()
	if rest, err := io.ReadAll(read); err != nil || len(rest) != 0 {
		t.Errorf("after the last answer comes %q, %v", rest, err)
	}
	if s := <-status; s != exitOK || stderr.Len() != 0 {
		t.Errorf("status %d, stderr %q; want 0 and none", s, stderr)
	}
}

func TestDecodeEndsWhenItIsInterrupted(t *testing.T) {
	in, feed := io.Pipe()
	defer feed.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	if status := run(ctx, []string{"addr", "decode", "-o", "json", "-"}, in, &stdout, &stderr); status != exitError || stderr.Len() == 0 {
		t.Errorf("status %d, stderr %q; want 1 and a reason", status, &stderr)
	}
}

func TestDecodeFailsWhenItsAnswerCannotBeWritten(t *testing.T) {
	for _, f := range []string{"text", "json"} {
		var stderr bytes.Buffer
		status := run(t.Context(), []string{"addr", "decode", "-o", f, "fdab:0:7::1"}, strings.NewReader(""), fullWriter{}, &stderr)
		if status != exitError || !strings.Contains(stderr.String(), errFull.Error()) {
			t.Errorf("in %s: status %d, stderr %q; want 1 and %v", f, status, &stderr, errFull)
		}
	}
}

func TestDecodeInTextIsATable(t *testing.T) {
	got := runLine(t, "fdab:0:7::1\n", "addr", "decode", "fdab:0:7:0:63:0:101:fffa", "-")
	want := `ADDRESS                   FORM     KIND     NETWORK  CELL  MACHINE  BLOCK  HOST  STABLE
fdab:0:7:0:63:0:101:fffa  routing  machine  99       1     257      1      7     fdaa:0:63:1::101:2
fdab:0:7::1               routing  control  -        -     -        -      7     -
`
	if got.status != exitOK || got.stdout != want || got.stderr != "" {
		t.Errorf("%+v, want\n%s", got, want)
	}
}

func TestDecodeInTextFailsOnAnInvalidAddress(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"hello"}, "ip6d: address \"hello\" is not an IPv6 address\n"},
		{[]string{"fdaa:0:63::101:2"}, "ip6d: stable address fdaa:0:63::101:2: cell is 0, must be 1 to 65534\n"},
		{[]string{"fdab:0:7::1", "hello", "there"}, "ip6d: 2 of 3 addresses are invalid, the first because: address \"hello\" is not an IPv6 address\n"},
	} {
		if got := runLine(t, "", append([]string{"addr", "decode"}, c.args...)...); got.status != exitError || got.stderr != c.want {
			t.Errorf("%v: %+v, want status 1 and %s", c.args, got, c.want)
		}
	}
}

func TestDecodeWithOtherPrefixes(t *testing.T) {
	got := decodeLines(t, "", "--stable-prefix", "fd01::/16", "--routing-prefix", "fd02::/16", "fd01:0:63:1::101:2", "fdaa:0:63:1::101:2")
	if len(got) != 2 || got[0]["form"] != "stable" || got[1]["form"] != "invalid" {
		t.Errorf("%v, want the first stable and the second invalid", got)
	}
}

func TestWrongPrefixesAreUsageErrors(t *testing.T) {
	for _, c := range []struct{ prefix, says string }{
		{"fdaa::/48", "stable prefix fdaa::/48: must be a /16"},
		{"fdab::/16", "stable and routing prefix are both fdab::/16"},
		{"fdaa", `"fdaa"`},
	} {
		got := runLine(t, "", "addr", "decode", "--stable-prefix", c.prefix, "fdab:0:7::1")
		if got.status != exitUsage || !strings.Contains(got.stderr, c.says) {
			t.Errorf("--stable-prefix %s: %+v, want status 2 and %q", c.prefix, got, c.says)
		}
	}
}

func TestEncodeMakesBothForms(t *testing.T) {
	for _, c := range []struct{ args, text, json string }{
		{
			"--network 99 --cell 1 --machine 257 --host 7",
			"stable   fdaa:0:63:1::101:2\nrouting  fdab:0:7:0:63:0:101:fffa\n",
			`{"kind":"machine","network":99,"cell":1,"machine":257,"block":1,"host":7,"stable":"fdaa:0:63:1::101:2","routing":"fdab:0:7:0:63:0:101:fffa"}`,
		},
		{
			"fdaa:0:63:1::101:2 --host 0x7",
			"stable   fdaa:0:63:1::101:2\nrouting  fdab:0:7:0:63:0:101:fffa\n",
			`{"kind":"machine","network":99,"cell":1,"machine":257,"block":1,"host":7,"stable":"fdaa:0:63:1::101:2","routing":"fdab:0:7:0:63:0:101:fffa"}`,
		},
		{
			"--network 99 --cell 1 --machine 257",
			"stable  fdaa:0:63:1::101:2\n",
			`{"kind":"machine","network":99,"cell":1,"machine":257,"block":1,"stable":"fdaa:0:63:1::101:2"}`,
		},
		{
			"--network 0 --cell 1 --host 7",
			"stable   fdaa::1:0:0:7:2\nrouting  fdab:0:7::7:fffa\n",
			`{"kind":"endpoint","network":0,"cell":1,"machine":7,"block":0,"host":7,"stable":"fdaa::1:0:0:7:2","routing":"fdab:0:7::7:fffa"}`,
		},
		{
			"--network 0 --cell 1 --machine 7",
			"stable  fdaa::1:0:0:7:2\n",
			`{"kind":"endpoint","network":0,"cell":1,"machine":7,"block":0,"host":7,"stable":"fdaa::1:0:0:7:2"}`,
		},
	} {
		args := append([]string{"addr", "encode"}, strings.Fields(c.args)...)
		if got := runLine(t, "", args...); got.status != exitOK || got.stdout != c.text {
			t.Errorf("%s: %+v, want\n%s", c.args, got, c.text)
		}
		if got := runLine(t, "", append(args, "-o", "json")...); got.status != exitOK || got.stdout != c.json+"\n" {
			t.Errorf("%s -o json: %+v, want\n%s", c.args, got, c.json)
		}
	}
}

func TestEncodeRefusesWhatMakesNoAddress(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"", exitUsage, "give either a stable address or --network, --cell and --machine"},
		{"fdaa:0:63:1::101:2 --cell 1", exitUsage, "give either a stable address or --network"},
		{"--network 99 --cell 1", exitUsage, `--machine: invalid machine "": must be a number from 0 to 4294967295`},
		{"--network 99 --machine 1", exitUsage, `--cell: invalid cell "": must be a number from 1 to 65534`},
		{"--cell 1 --machine 1", exitUsage, `--network: invalid network "": must be a number from 1 to 4294967295`},
		{"--network 99 --cell 65535 --machine 1", exitUsage, `--cell: invalid cell "65535"`},
		{"--network 99 --cell 1 --machine x", exitUsage, `--machine: invalid machine "x"`},
		{"fdaa:0:63:1::101:2 --host 0", exitUsage, `--host: invalid host "0": must be a number from 1 to 4294967295`},
		{"fdab:0:7:0:63:0:101:fffa --host 8", exitError, "prefix is fdab::/16, must be fdaa::/16 (stable)"},
		{"hello --host 8", exitError, `address "hello" is not an IPv6 address`},
		{"--network 0 --cell 1 --machine 9 --host 7", exitError, "machine is 9, must be 7, the host, because the network is 0"},
		{"--network 0 --cell 1", exitError, "machine is 0, must be a host id"},
	} {
		got := runLine(t, "", append([]string{"addr", "encode"}, strings.Fields(c.args)...)...)
		if got.status != c.status || got.stdout != "" || !strings.Contains(got.stderr, c.says) {
			t.Errorf("%q: %+v, want status %d and %q", c.args, got, c.status, c.says)
		}
		checkOneLine(t, got)
	}
}
