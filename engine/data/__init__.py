"""Pictures and captions, from a folder on disk to the batches that train.

The road of a run, each step a pure function of the one before and of plain values:

    found = survey(SurveyRules(folder=..., ...))            # survey.py    decode and check everything
    found.raise_errors()                                    #              refuse before a model loads
    places = place_everywhere(found.items, [BucketRules(...)])  # placing.py   a bucket for each
                                                            #              picture and resolution
    apart = held_out(found.items, share, seed)              # validation.py  never trained
    order = Order(placements, repeats, is_reg, ...)         # order.py     steps, exact, before the start
    latents = encode_latents(Pictures(...), Encoder(...))   # latents.py   mean and deviation, cached
    loader = Loader(items, placements, latents, ...)        # loader.py    batches by (epoch, step)
    batch = loader.batch(plan, epoch=..., step=..., first_sample=...)

Samples are numbered by place: `items` and `placements` are parallel, and a picture stands in them
once for each of its resolutions. `survey(..., decode=False)` with `check_places` and
`Order.steps_per_epoch` is the quick form for a live line. Nothing up to `order.py` imports torch.
Findings are the same everywhere: `lyctui check` lists them, a run refuses those of level error.
"""
