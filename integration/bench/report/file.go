package report

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// Write writes NAME.json with what v is, and NAME.svg.
func Write(dir, name string, v any, chart []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, name+".json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".svg"), chart, 0o644)
}
