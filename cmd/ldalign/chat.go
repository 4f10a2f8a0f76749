package main

type chatCommand struct {
	modelFlags
	System string `help:"System message; /system changes it." placeholder:"TEXT"`
	samplingFlags
}

func (chatCommand) Help() string {
	return `Example:

    ldalign chat --model ./smollm2 --temperature 0.7 --top-p 0.9
    echo "Name a colour." | ldalign chat --model my-run@3

Each line is a message; a backslash at its end continues it on the next line. The model reads the whole conversation through
its chat template. During an answer, Ctrl-C ends the answer and keeps its beginning; at the prompt it ends the program, like
/quit and the end of the input. -v shows the speed of each answer.

    /reset           forget the conversation
    /system TEXT     set the system message and forget the conversation; without TEXT, remove the system message
    /save FILE       append the conversation to FILE as a line of JSON with "messages", as ldalign generate reads it
    /quit            end
    //text           a message that begins with a slash

When a conversation and --max-tokens no longer fit the model's context, chat drops the oldest messages and says so.
With --json each complete answer is printed as one object per line.`
}
