package main

// The offline verbs (generate, score, reward, chat) run the code of the stages on files.

// computeFlags choose the device and the number of threads.
type computeFlags struct {
	Threads int    `help:"Threads of the tensor library; 0 is all cores. It does not change the results." default:"0"`
	Device  string `help:"cpu or cuda:N (not run on a GPU by the project)." default:"cpu"`
}

// modelFlags choose a model.
type modelFlags struct {
	Model string `help:"A model's or adapter's folder, RUN@ITERATION (RUN@ is the newest), or a Hugging Face id (ORG/NAME or ORG/NAME@REVISION)." required:"" placeholder:"MODEL"`
	computeFlags
	serverFlags
}

// templateFlags say how a prompt becomes the model's input. They convert to offline.Template.
type templateFlags struct {
	Raw    bool   `help:"Use prompts as they are; only the tokenizer's own special tokens are added." xor:"template"`
	Chat   bool   `help:"Put prompts into the model's chat template (the default if the model has one)." xor:"template"`
	System string `help:"System message before every prompt." placeholder:"TEXT"`
}
