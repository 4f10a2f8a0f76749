package architecture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
)

// maxConfig bounds how much of a config.json is read.
const maxConfig = 1 << 20

// ReadConfig reads config.json from a Hugging Face folder. It ignores keys that do not change what the model computes, and
// refuses values that change it and are not supported. Errors wrap ErrConfig or fs.ErrNotExist.
func ReadConfig(folder fs.FS) (Config, error) {
	file, err := folder.Open("config.json")
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("models: not the folder of a Hugging Face model: %w", err)
	}
	if err != nil {
		return Config{}, fmt.Errorf("models: read the model's configuration: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err != nil {
		return Config{}, fmt.Errorf("models: read the model's configuration: %w", err)
	}
	if len(data) > maxConfig {
		return Config{}, fmt.Errorf("%w: config.json has more than %d bytes: not a model's configuration", ErrConfig, maxConfig)
	}
	c, err := ParseConfig(data)
	if err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	return c, nil
}

// ParseConfig is ReadConfig for the bytes of a config.json.
func ParseConfig(data []byte) (Config, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return Config{}, fmt.Errorf("%w: the file is empty", ErrConfig)
	}
	var head configHead
	if err := json.Unmarshal(data, &head); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	family, wrapped, err := lookup(head.ModelType)
	if err != nil {
		return Config{}, err
	}
	class := family.class
	if wrapped {
		class = family.wrapper.class
	}
	if len(head.Architectures) > 0 && !slices.Contains(head.Architectures, class) {
		return Config{}, fmt.Errorf("%w: architectures is %q, a language model of %s is %s",
			ErrConfig, head.Architectures, head.ModelType, class)
	}
	if isSet(head.Quantization) {
		return Config{}, fmt.Errorf("%w: quantization_config: quantised weights are not supported", ErrConfig)
	}
	var c Config
	if wrapped {
		c, err = family.wrapper.parse(family, head, data)
	} else {
		c, err = family.format.parse(family, data)
	}
	if err != nil {
		return Config{}, err
	}
	c = c.WithDefaults()
	return c, c.Validate()
}

// JSON is the model's config.json, for transformers to open.
func (c Config) JSON() ([]byte, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	family := c.family()
	file, err := family.format.file(family, c)
	var data []byte
	if err == nil {
		data, err = json.MarshalIndent(file, "", "  ")
	}
	if err != nil {
		return nil, fmt.Errorf("models: write config.json: %w", err)
	}
	return append(data, '\n'), nil
}
