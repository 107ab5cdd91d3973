"""Data: from a prepared set, a user's own files or the embedded world to batches of arrays.

The one table of a batch. Of image, video and audio those are there that the model reads. A picture
(or clip, or sound) may come with several texts: R = B * texts, and rows i * texts to
(i + 1) * texts of the text arrays belong to picture i.

| key         | dtype | shape     | meaning                                                       |
|-------------|-------|-----------|---------------------------------------------------------------|
| image       | uint8 | B H W 3   | RGB, 0 to 255; normalised on the device                       |
| video       | uint8 | B T H W 3 | frames evenly spread over the time of a clip                  |
| audio       | int16 | B S       | one channel, model.audio.mel.rate samples a second            |
| audio_length | int32 | B        | where among them the sound ends; silence follows              |
| text        | int32 | R N       | the question, or CAPTION_PROMPT; padded with the pad id       |
| text_mask   | bool  | R N       | True at the tokens of the text                                |
| target      | int32 | R M       | bos, the tokens of the answer or caption, eos; padded         |
| target_mask | bool  | R M       | True from bos to eos                                          |
| scored      | bool  | R M       | True at what is learned: answers and captions with their eos  |
| label       | int32 | B         | the class, a place in classes.json; where the loss asks for it |
| event       | int32 | B E       | classes of what happens in a clip; where the loss asks for it |
| span        | float | B E 2     | from when to when, as shares of the clip                      |
| event_mask  | bool  | B E       | True at the events of the clip                                |
| taught      | int32 | B         | the class by a teacher, or else the label; only model.taught   |
| also        | dict  |           | the five text arrays once more, for other texts of the same   |
|             |       |           | pictures; only where training has both captions and questions, |
|             |       |           | or data.contrary: captions, each wrong where its like is right |

N is at most data.text_length and M at most data.target_length: columns that would be padding for
the whole batch are left out. A caption is long and its prompt short, an answer is short and its
question long: in training data.captions texts of each picture stand in the batch itself and
data.questions in `also`, so that neither is padded to the other; where one of the two numbers is 0
the others stand in the batch, and where both are 0 there are no texts. Ids are below the size of
the tokenizer. A decoder reads target[:, :-1] and learns target[:, 1:] where
scored[:, 1:]. In a conversation every message begins with bos and every answer ends with eos: the
first question is the text, and target holds bos answer eos bos question bos answer eos ...; for a
model of text alone the first question stands in target as well.
"""

CAPTION_PROMPT = "describe the picture"
