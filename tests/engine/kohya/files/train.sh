#!/bin/bash
# What somebody typed.
accelerate launch --num_cpu_threads_per_process 1 ./sd-scripts/sdxl_train_network.py \
  --pretrained_model_name_or_path="/models/my base.safetensors" \
  --train_data_dir /train/img --resolution=1024,1024 --enable_bucket \
  --network_module=networks.lora --network_dim=16 --network_alpha=16 \
  --network_args conv_dim=8 conv_alpha=4 \
  --learning_rate 1e-4 --text_encoder_lr 5e-5 1e-5 --lr_warmup_steps 100 \
  --max_train_steps 500 --fp8_base --xformers
