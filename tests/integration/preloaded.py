"""What the server of `ranks.py` imports once for all ranks: all that a run needs, and nothing that starts threads."""

import deepspeed  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import transformers.models.bert.modeling_bert
import transformers.models.modernbert.modeling_modernbert
import transformers.models.roberta.modeling_roberta
import transformers.models.xlm_roberta.modeling_xlm_roberta
import transformers.models.xlm_roberta_xl.modeling_xlm_roberta_xl  # noqa: F401

import megamini.training.engines.deepspeed_engine
import megamini.training.run  # noqa: F401
