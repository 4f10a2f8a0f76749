// The load benchmark: how long models.Load takes for a folder of random weights, beside reading its file, in one run.
//
//	make build && source .native/env.sh && go run ./bench/load --folder /tmp/load
//
// The folder is made when it is not there. Every setting runs some rounds, and the best one counts. "cold" reads from the
// disk: the file's pages are dropped before it. (On a machine with other tenants the disk's rate is what they leave.)
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ldalign/ldalign/models"
	"github.com/ldalign/ldalign/models/architecture"
	"github.com/ldalign/ldalign/models/safetensors"
	"github.com/ldalign/ldalign/models/tensor"
)

func main() {
	folder := flag.String("folder", "", "where the model is, or shall be")
	size := flag.Float64("gb", 1, "size of its weights in GB, if it has to be made")
	dtype := flag.String("dtype", "BF16", "type of its weights, if it has to be made: BF16, F16 or F32")
	threads := flag.Int("threads", 2, "threads of the engine")
	rounds := flag.Int("rounds", 3, "rounds of each setting")
	flag.Parse()
	err := errors.New("name a --folder")
	if *folder != "" {
		err = run(*folder, *size, safetensors.DType(*dtype), *threads, *rounds)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(folder string, size float64, dtype safetensors.DType, threads, rounds int) error {
	path := filepath.Join(folder, "model.safetensors")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := write(folder, size, dtype); err != nil {
			return err
		}
	}
	stat, err := os.Stat(path)
	if err != nil {
		return err
	}
	eng, err := tensor.NewEngine(tensor.Options{Threads: threads})
	if err != nil {
		return err
	}
	defer eng.Close()
	gb := float64(stat.Size()) / 1e9
	fmt.Printf("%s: %.2f GB, %d threads, the best of %d rounds\n", path, gb, threads, rounds)
	fmt.Printf("%-8s %10s %10s %10s %10s %12s\n", "", "cold s", "cold GB/s", "warm s", "warm GB/s", "least CPU s")
	for _, setting := range []struct {
		name string
		run  func() error
	}{
		{"read", func() error { return read(path) }},
		{"packed", func() error { return load(eng, folder, models.Options{Packed: true}) }},
		{"plain", func() error { return load(eng, folder, models.Options{}) }},
	} {
		cold, warm, cpu := math.Inf(1), math.Inf(1), math.Inf(1)
		for range rounds {
			if err := drop(path); err != nil {
				return err
			}
			for _, best := range []*float64{&cold, &warm} {
				start, before := time.Now(), processor()
				if err := setting.run(); err != nil {
					return err
				}
				*best = min(*best, time.Since(start).Seconds())
				cpu = min(cpu, processor()-before)
			}
		}
		fmt.Printf("%-8s %10.2f %10.2f %10.2f %10.2f %12.2f\n", setting.name, cold, gb/cold, warm, gb/warm, cpu)
	}
	return nil
}

// processor is how many seconds of processors the process has used.
func processor() float64 {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // fails for another argument only
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// load loads the model and frees it.
func load(eng *tensor.Engine, folder string, opts models.Options) error {
	ctx := context.Background()
	m, err := models.Load(ctx, eng, folder, opts)
	if err != nil {
		return err
	}
	return m.Close(ctx)
}

// read reads a file from its beginning to its end.
func read(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	buffer := make([]byte, 4<<20)
	for {
		if _, err := file.Read(buffer); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// drop takes a file's pages out of the system's cache.
func drop(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Fsync(int(file.Fd())); err != nil { // only what is on the disk can be dropped
		return err
	}
	return unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// write makes a Llama of about the given size, with weights that mean nothing.
func write(folder string, gb float64, dtype safetensors.DType) error {
	cfg := architecture.Config{
		Family: architecture.Llama, Vocab: 32000, Hidden: 2048, Layers: 1, Heads: 32, KVHeads: 8, Intermediate: 5632,
		MaxPositions: 4096,
	}
	const outer, layer = 2 * 32000 * 2048, 2*2048*2048 + 2*2048*512 + 3*2048*5632
	cfg.Layers = max(1, int(gb*1e9/float64(dtype.Size())-outer)/layer)
	config, err := cfg.JSON()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "config.json"), config, 0o644); err != nil {
		return err
	}
	infos := cfg.Tensors(dtype)
	w, err := safetensors.Create(filepath.Join(folder, "model.safetensors"), infos, nil)
	if err != nil {
		return err
	}
	defer w.Abort()
	numbers := random(dtype)
	for _, info := range infos {
		size, err := info.Bytes()
		if err != nil {
			return err
		}
		data := make([]byte, 0, size)
		for int64(len(data)) < size {
			data = append(data, numbers[:min(int64(len(numbers)), size-int64(len(data)))]...)
		}
		if err := w.Write(info.Name, data); err != nil {
			return err
		}
	}
	return w.Close()
}

// random are a million numbers around 0.
func random(dtype safetensors.DType) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	var data []byte
	for range 1 << 20 {
		bits := math.Float32bits(float32(0.02 * rng.NormFloat64()))
		switch dtype {
		case safetensors.F32:
			data = binary.LittleEndian.AppendUint32(data, bits)
		case safetensors.BF16:
			data = binary.LittleEndian.AppendUint16(data, uint16(bits>>16))
		default: // a half between 1/256 and 1/8 of either sign
			data = binary.LittleEndian.AppendUint16(data, uint16(rng.UintN(2)<<15|(7+rng.UintN(5))<<10|rng.UintN(1<<10)))
		}
	}
	return data
}
